"""How the scripted engine counts tokens: a rule simple enough to recompute by hand.

Output: one token is up to ``chars_per_token`` characters (code points; 4 by default) of what is sent. An explicit empty
delta is one token as well: real engines send such chunks while a character is only half decoded.
Input: each text is ceil(characters / 4) tokens, each message 4 more, the whole conversation 3 more, and each image the
number its scenario names. A character is at least one UTF-8 byte, so the sum never exceeds the bytes of the request
plus 16 per message plus 64 plus the image tokens: the bound that the gateway reserves before it knows the true count.
"""

from collections.abc import Iterable

CHARS_PER_TOKEN = 4
MESSAGE_OVERHEAD_TOKENS = 4
CONVERSATION_OVERHEAD_TOKENS = 3


def split_tokens(text: str, chars_per_token: int = CHARS_PER_TOKEN) -> tuple[str, ...]:
    """The output tokens of ``text``, in order; joined they give ``text`` back. An empty text has none."""
    return tuple(text[start : start + chars_per_token] for start in range(0, len(text), chars_per_token))


def count_text(text: str) -> int:
    """Input tokens of one text."""
    return -(-len(text) // CHARS_PER_TOKEN)


def count_conversation(texts_by_message: Iterable[Iterable[str]], image_tokens: int = 0) -> int:
    """Input tokens of a conversation, given the texts of each message and the tokens of all images in it."""
    total = CONVERSATION_OVERHEAD_TOKENS + image_tokens
    for texts in texts_by_message:
        total += MESSAGE_OVERHEAD_TOKENS + sum(count_text(text) for text in texts)
    return total
