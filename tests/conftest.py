"""What every test needs of its process."""

import signal

# a shell's background job ignores Ctrl-C, and so would every command that a test starts from it
signal.signal(signal.SIGINT, signal.default_int_handler)
