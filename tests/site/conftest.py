"""The built site and its address, as in tests/test_site.py."""

from tests.test_site import address, site  # noqa: F401
