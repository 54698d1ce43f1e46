"""What a model costs, before it is run: parameters, FLOPs, memory, and which chips hold it.

    print(vit_jax.model_table("vit_base*"))
    print(vit_jax.inspect_model("vit_base_patch16_224", batch_size=256))

Nothing is computed and no array is made. Parameters are those of the real tree, memory is read off
the real traced training step; beside both stands what one works out by hand (docs/inspect.md).
"""
