"""Imports all modules that take long, and no device, in the server from which the tests' child processes are forked."""

import warnings

warnings.filterwarnings('ignore', message=r'os\.fork\(\) was called')  # JAX's; no thread of its own has begun here.

from trax_hourglass.cli import write_text  # pylint: disable=unused-import, wrong-import-position
from trax_hourglass import registry  # pylint: disable=unused-import, wrong-import-position
