"""Reads of damaged checkpoints leave half-done coroutines of Orbax, which Python reports later."""


def pytest_configure(config):
    for what in ("<coroutine object _read_array_index_and_device_put", "None"):
        config.addinivalue_line(
            "filterwarnings",
            f"ignore:Exception ignored in. {what}:pytest.PytestUnraisableExceptionWarning",
        )
