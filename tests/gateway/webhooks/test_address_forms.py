"""Old spellings of an IPv4 address are refused by the check of our own, before any client sees them."""

import pytest

from gateway.identity.fetch import Unreachable, check_url


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f.1", "017700000001"])
def test_short_octal_and_hexadecimal_form_of_an_address_is_refused_by_our_own_check(host: str) -> None:
    with pytest.raises(Unreachable):
        check_url(f"https://{host}/hook", ())
