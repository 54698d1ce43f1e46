"""How good a trained model is, beyond its accuracy.

`probe` says what its features are worth, `confusion` which classes it takes for which, and
`calibration` whether its probabilities are true; each opens models and data. `neighbours`,
`few_shot` and `logistic` are of arrays.
"""
