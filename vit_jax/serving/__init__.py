"""A page and an HTTP endpoint that show what a model says of a picture; `vit-jax serve`.

`run` opens the model and the port, `app` has the addresses, `uploads` takes what is sent, `limits`
refuses, `asking` decodes and answers, `batches` brings requests together for `engine`, which has
the model. `page/` is what a browser is given.

What is uploaded is in memory alone, and forgotten with the answer.
"""
