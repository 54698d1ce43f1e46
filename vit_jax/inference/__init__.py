"""What a trained model says of pictures: its classes (`predict`), its features (`features`).

`vit_jax.open_model` opens the model; `images` finds the pictures; `forward` brings both together,
for whatever a model is asked.
"""
