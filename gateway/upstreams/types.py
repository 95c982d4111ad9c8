"""What the gateway knows of an engine."""

import msgspec


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a model takes and gives; counts in tokens. The overheads bound what its chat template adds to a prompt."""

    context_tokens: int
    max_output_tokens: int
    modalities: tuple[str, ...] = ("text",)
    extra_params: tuple[str, ...] = ()
    image_tokens: int = 0
    request_overhead_tokens: int = 64
    message_overhead_tokens: int = 16


class Upstream(msgspec.Struct, frozen=True):
    """One engine endpoint. `base_url` ends in `/v1`; `witness_url`, where the engine keeps a record of what it served,
    answers `GET <witness_url>/<attempt_id>`. `created_at` in
    microseconds since the epoch."""

    upstream_id: str
    model: str
    base_url: str
    served_model: str
    witness_url: str | None
    tier: str
    region: str
    site: str
    profile: Profile
    created_at: int
