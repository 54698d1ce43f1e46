import types

import jax
import pytest

from vit_jax.training.hardware import mfu, peak_flops


def device(kind):
    return types.SimpleNamespace(device_kind=kind)


@pytest.mark.parametrize(
    ("kind", "teraflops"),
    [
        ("TPU v2", 22.5),
        ("TPU v3", 61.5),
        ("TPU v4", 275),
        ("TPU v5 lite", 197),
        ("TPU v5", 459),
        ("TPU v5p", 459),
        ("TPU v6 lite", 918),
        ("TPU7x", 1153.5),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA A10", 125),
        ("NVIDIA A10G", 70),
        ("NVIDIA H100 80GB HBM3", 989.5),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H200", 989.5),
        ("NVIDIA H200 NVL", 835.5),
        ("NVIDIA GH200 480GB", 989.5),
        ("NVIDIA B200", 2250),
        ("NVIDIA GB200", 2500),
        ("NVIDIA L4", 121),
        ("NVIDIA L40", 181),
        ("NVIDIA L40S", 362),
    ],
)
def test_peaks_are_those_of_the_data_sheets(kind, teraflops):
    assert peak_flops(device(kind)) == pytest.approx(teraflops * 1e12)


@pytest.mark.parametrize(
    "kind",
    ["cpu", "Tesla V100-SXM2-16GB", "Tesla T4", "TPU v9", "NVIDIA A100-SXM4-40GB MIG 1g.5gb"],
)
def test_an_unknown_device_has_no_peak(kind):
    assert peak_flops(device(kind)) is None


def test_utilisation_is_the_share_of_all_devices():
    devices = [device("TPU v4")] * 4
    assert mfu(550e12, devices) == pytest.approx(0.5)
    assert mfu(550e12, jax.devices("cpu")) is None
