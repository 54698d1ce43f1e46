import types

import jax
import pytest

from vit_jax.training.hardware import chip, mfu, peak_flops


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


@pytest.mark.parametrize(
    ("kind", "gigabytes", "gigabytes_a_second", "links"),
    [
        ("TPU v3", 16 * 1.073741824, 450, 280),  # a core, half a chip
        ("TPU v5 lite", 16 * 1.073741824, 819, 400),
        ("TPU v5", 95 * 1.073741824, 2765, 1200),
        ("TPU v6 lite", 32 * 1.073741824, 1638, 800),
        ("TPU7x", 96 * 1.073741824, 3690, 600),  # a core too
        ("NVIDIA A100-SXM4-40GB", 40, 1555, 600),
        ("NVIDIA A100-SXM4-80GB", 80, 2039, 600),
        ("NVIDIA A100 80GB PCIe", 80, 1935, 64),
        ("NVIDIA A100-PCIE-40GB", 40, 1555, 64),
        ("NVIDIA H100 80GB HBM3", 80, 3350, 900),
        ("NVIDIA H100 PCIe", 80, 2000, 128),
        ("NVIDIA H200", 141, 4800, 900),
    ],
)
def test_memory_and_links_are_those_of_the_data_sheets(kind, gigabytes, gigabytes_a_second, links):
    found = chip(device(kind))
    assert found.memory == pytest.approx(gigabytes * 1e9)
    assert found.bandwidth == pytest.approx(gigabytes_a_second * 1e9)
    assert found.interconnect == pytest.approx(links * 1e9)


def test_utilisation_is_the_share_of_all_devices():
    devices = [device("TPU v4")] * 4
    assert mfu(550e12, devices) == pytest.approx(0.5)
    assert mfu(550e12, jax.devices("cpu")) is None
