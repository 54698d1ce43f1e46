"""Time of a step of masked autoencoding, beside one that encodes every patch.

    python benchmarks/mae_step.py

The encoder of a masked autoencoder sees a quarter of the patches. He et al. 2022, "Masked
Autoencoders Are Scalable Vision Learners", section 4.1, "mask token", report 3.3 times fewer
operations and 2.8 times less time for ViT-L, whose encoder is a larger part of the whole than that
of the smaller models here. Compared, two and two, are

    masked          the encoder on what the mask leaves, mask tokens in the decoder alone
    all             the same with mask tokens in the encoder: encoder and decoder on every token
    encoder masked  the encoder on what the mask leaves, alone
    encoder all     the encoder on every token, alone

A step is loss and gradient of every parameter, of one batch of images. Seconds are the median over
the rounds, in which all alternate; memory is what XLA's compiled program needs beside
parameters and images (`memory_analysis().temp_size_in_bytes`).
"""

import argparse
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from compiled import Compiled, alternate
from report import write

import vit_jax
from vit_jax.models import MaskedAutoencoder
from vit_jax.models.mae import random_masking
from vit_jax.models.vit import pair
from vit_jax.objectives.mae import MaskedAutoencoding

RESULTS = pathlib.Path(__file__).parent / "results/mae_step.json"
MODELS = ("mae_vit_tiny_patch16", "mae_vit_base_patch16")


def all_tokens(module: MaskedAutoencoder, params: Any, images: jax.Array) -> jax.Array:
    """The loss of a model that encodes every patch and then decodes every patch."""
    target = MaskedAutoencoding(module).targets(images)

    def forward(bound: MaskedAutoencoder) -> jax.Array:
        latent, _ = bound.features(images)
        order = jnp.arange(target.shape[1])[None].repeat(len(images), axis=0)
        prediction, _ = bound.decoder(latent, order, bound.grid())
        return jnp.square(prediction - target).mean()

    return module.apply({"params": params}, method=forward)


def encoder_all(module: MaskedAutoencoder, params: Any, images: jax.Array) -> jax.Array:
    """A number that needs every token of the encoder, from every patch."""
    return module.apply({"params": params}, images, method=lambda m, x: m.features(x)[0].sum())


def encoder_masked(module: MaskedAutoencoder, params: Any, images: jax.Array) -> jax.Array:
    """The same from the patches that the mask leaves."""
    rows, columns = module.grid()
    noise = jax.random.uniform(jax.random.key(0), (len(images), rows * columns))
    kept = random_masking(noise, module.mask_ratio)[0]
    return module.apply(
        {"params": params}, images, method=lambda m, x: m.features(x, kept=kept)[0].sum()
    )


def masked(module: MaskedAutoencoder, params: Any, images: jax.Array) -> jax.Array:
    """The loss of `vit_jax.objectives.mae`."""
    objective = MaskedAutoencoding(module)
    return objective.loss(params, {}, {"image": images}, jax.random.key(0), jnp.int32(0))[0]


KINDS = {
    "masked": masked,
    "all": all_tokens,
    "encoder masked": encoder_masked,
    "encoder all": encoder_all,
}


def compiled(kind: str, module: MaskedAutoencoder, batch: int) -> Compiled:
    """A step of one kind."""
    loss = KINDS[kind]
    images = jax.ShapeDtypeStruct((batch, *pair(module.img_size), module.in_chans), "float32")
    params = jax.eval_shape(module.init, jax.random.key(0), images)["params"]
    step = jax.value_and_grad(lambda params, images: loss(module, params, images))
    return Compiled(step, params, images)


def flops(module: MaskedAutoencoder) -> dict[str, int]:
    """Operations of one image's forward pass, of every kind."""
    rows, columns = module.grid()
    tokens = rows * columns + module.num_prefix_tokens
    kept = int(rows * columns * (1 - module.mask_ratio)) + module.num_prefix_tokens
    d, hidden = module.embed_dim, module.mlp_hidden
    blocks = [module.depth * module.block_flops(n, d, hidden) for n in (kept, tokens)]
    rest = 2 * (tokens - kept) * d * module.decoder_embed_dim  # the decoder's first layer
    patches = module.patch_flops(*pair(module.img_size))
    return {
        "masked": module.flops(),
        "all": module.flops() - blocks[0] + blocks[1] + rest,
        "encoder masked": patches + blocks[0],
        "encoder all": patches + blocks[1],
    }


def measure(
    names: list[str], sizes: list[int], batch: int, dtype: str, rounds: int
) -> list[dict[str, Any]]:
    """A row for each model and size of images."""
    rows = []
    for name in names:
        for size in sizes:
            module = vit_jax.create_model(name, img_size=size, dtype=dtype, scan=True)
            every = {kind: compiled(kind, module, batch) for kind in KINDS}
            alternate(list(every.values()), rounds)
            counted = flops(module)
            row: dict[str, Any] = {"model": name, "size": size, "batch": batch}
            for kind, program in every.items():
                row[kind] = {**program.summary(), "gflops_forward": counted[kind] / 1e9}
            for of in ("", "encoder "):
                some, full = f"{of}masked", f"{of}all"
                row[f"{of}times faster"] = row[full]["seconds"] / row[some]["seconds"]
                row[f"{of}times fewer operations"] = counted[full] / counted[some]
            rows.append(row)
            print(line(row), flush=True)
    return rows


def line(row: dict[str, Any]) -> str:
    """A row for people."""
    memory = [row[kind]["temporary_bytes"] / 2**20 for kind in ("masked", "all")]
    return (
        f"{row['model']:24}{row['size']:5}  masked {row['masked']['seconds']:7.3f} s, all "
        f"{row['all']['seconds']:7.3f} s: {row['times faster']:.2f} times faster with "
        f"{row['times fewer operations']:.2f} times fewer operations; memory {memory[0]:.0f} and "
        f"{memory[1]:.0f} MiB; encoder alone {row['encoder times faster']:.2f} times faster with "
        f"{row['encoder times fewer operations']:.2f} times fewer operations"
    )


def main() -> None:
    """Measures, prints a table and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--sizes", nargs="+", type=int, default=[224])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=pathlib.Path, default=RESULTS)
    args = parser.parse_args()
    what = "loss and gradient of a masked autoencoder, beside one that encodes every patch"
    results = measure(args.models, args.sizes, args.batch, args.dtype, args.rounds)
    write(args.output, what, results, dtype=args.dtype, rounds=args.rounds)


if __name__ == "__main__":
    main()
