"""What the gateway knows of an engine."""

import msgspec

# Fields of engines that only the gateway may set: they cross tenants, reach into the engine, or fetch from outside.
NEVER_PASSED = frozenset(
    {
        "prompt_embeds", "chat_template", "request_id", "vllm_xargs", "mm_processor_kwargs", "media_io_kwargs",
        "logits_processors", "kv_transfer_params", "ec_transfer_params", "priority", "cache_salt", "uuid", "session_id",
    }
)  # fmt: skip


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a model takes and gives; counts in tokens. The overheads bound what its chat template adds to a prompt.
    `tokenize_url`, where the engine counts prompts on request (vLLM's `POST /tokenize`); '' where it does not."""

    context_tokens: int
    max_output_tokens: int
    modalities: tuple[str, ...] = ("text",)
    extra_params: tuple[str, ...] = ()
    image_tokens: int = 0
    request_overhead_tokens: int = 64
    message_overhead_tokens: int = 16
    tokenize_url: str = ""

    def __post_init__(self) -> None:
        if self.tokenize_url and not self.tokenize_url.startswith(("http://", "https://")):
            raise ValueError("tokenize_url is no http or https address")
        forbidden = NEVER_PASSED.intersection(self.extra_params)
        if forbidden:
            raise ValueError(f"extra_params names {min(forbidden)}, which never reaches an engine from a client")


class Upstream(msgspec.Struct, frozen=True):
    """One engine endpoint. `base_url` ends in `/v1`; `witness_url`, where the engine keeps a record of what it served,
    answers `GET <witness_url>/<attempt_id>`. `created_at` in microseconds since the epoch; `country` is ISO 3166-1
    alpha-2, `site` names the building or cluster, which may be a tenant's own."""

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
    model_version: str = "1.0.0"
    country: str = "JP"
