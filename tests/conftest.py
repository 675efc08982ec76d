"""Every test begins with the signals of a shell in the foreground."""

import signal


def pytest_configure() -> None:
    # A job that a shell starts in the background inherits an ignored SIGINT, and so would every
    # process that a test starts, of which some test what Ctrl-C does.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
