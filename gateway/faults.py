"""The one catalogue of errors: a stable code, an HTTP status, an outcome, and texts in Japanese and English.

    Fault          one refusal or failure of one request, raised anywhere on the request's way
      .code        its entry in `CATALOGUE` (stable for clients; texts may improve, codes never change)
      .internal    what only the operator's log may see

Each dialect renders a fault in its own shape; see `gateway.edge.openai`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from billing.types import Outcome

Language = Literal["ja", "en"]


@dataclass(frozen=True, slots=True)
class Code:
    """One entry of the catalogue. Texts may name `{placeholders}` that the raiser fills."""

    name: str
    status: int
    outcome: Outcome
    type: str
    en: str
    ja: str
    cure_en: str
    cure_ja: str


class Fault(Exception):
    """A request ends here, with `code`. `param` names the field at fault in dotted form (`messages[0].content`)."""

    def __init__(
        self,
        code: str,
        *,
        param: str | None = None,
        rule: str | None = None,
        licence: str | None = None,
        internal: str = "",
        retry_after_s: int | None = None,
        headers: Mapping[str, str] | None = None,
        **values: object,
    ) -> None:
        super().__init__(code, internal)
        self.code = CATALOGUE[code]
        self.param = param
        self.rule = rule
        self.licence = licence
        self.internal = internal
        self.retry_after_s = retry_after_s
        self.headers = headers or {}
        self.values = {"param": param or "", **values}

    def text(self, language: Language) -> str:
        """What went wrong, for a person."""
        template = self.code.ja if language == "ja" else self.code.en
        return template.format_map(_Known(self.values))

    def cure(self, language: Language) -> str:
        """What the person can do about it."""
        template = self.code.cure_ja if language == "ja" else self.code.cure_en
        return template.format_map(_Known(self.values))


class _Known(dict[str, object]):
    """Placeholders that the raiser did not fill stay empty: an error must never fail to be told."""

    def __missing__(self, key: str) -> str:
        return ""


def language_of(accept_language: str) -> Language:
    """`ja` or `en` from an `Accept-Language` header (RFC 9110 §12.5.4): the one with the higher quality, else `en`."""
    best: Language = "en"
    best_quality = 0.0
    for part in accept_language.split(","):
        tag, _, parameters = part.strip().partition(";")
        primary = tag.split("-")[0].lower()
        if primary not in ("ja", "en"):
            continue
        quality = _quality(parameters)
        if quality > best_quality:
            best, best_quality = ("ja" if primary == "ja" else "en"), quality
    return best


def _quality(parameters: str) -> float:
    name, _, value = parameters.strip().partition("=")
    if name != "q":
        return 1.0
    try:
        return float(value)
    except ValueError:
        return 0.0


_INVALID = "invalid_request_error"
_AUTH = "authentication_error"
_PERMISSION = "permission_error"
_SERVER = "server_error"


def _entries() -> tuple[Code, ...]:
    o = Outcome
    return (
        Code("invalid_json", 400, o.REFUSED_INVALID, _INVALID,
             "The body is not valid JSON: {detail}.", "本文が正しいJSONではありません: {detail}。",
             "Send one JSON object in UTF-8.", "UTF-8のJSONオブジェクトを1つ送ってください。"),
        Code("duplicate_key", 400, o.REFUSED_INVALID, _INVALID,
             "The JSON object names the key {param} twice.", "JSONオブジェクトにキー {param} が重複しています。",
             "Send each key once.", "各キーを1回だけ送ってください。"),
        Code("nesting_too_deep", 400, o.REFUSED_INVALID, _INVALID,
             "The JSON is nested deeper than {limit} levels.", "JSONの入れ子が{limit}段を超えています。",
             "Flatten the body.", "本文の入れ子を浅くしてください。"),
        Code("too_many_values", 400, o.REFUSED_INVALID, _INVALID,
             "The JSON holds more than {limit} values.", "JSONの値が{limit}個を超えています。",
             "Send fewer messages, parts or list entries.", "メッセージやリストの要素を減らしてください。"),
        Code("invalid_type", 400, o.REFUSED_INVALID, _INVALID,
             "The field {param} has the wrong type: {detail}.", "フィールド {param} の型が正しくありません: {detail}。",
             "Give the field the documented type.", "文書に示された型で指定してください。"),
        Code("invalid_value", 400, o.REFUSED_INVALID, _INVALID,
             "The value of {param} is not allowed: {detail}.", "{param} の値は使えません: {detail}。",
             "Choose a value in the documented range.", "文書に示された範囲の値を指定してください。"),
        Code("missing_parameter", 400, o.REFUSED_INVALID, _INVALID,
             "The field {param} is missing.", "フィールド {param} がありません。",
             "Add {param}.", "{param} を追加してください。"),
        Code("unknown_parameter", 400, o.REFUSED_INVALID, _INVALID,
             "The field {param} is not a parameter of this model.", "フィールド {param} はこのモデルのパラメーターではありません。",
             "Remove {param}, or ask for it to be allowed for the model.",
             "{param} を外すか、このモデルでの許可を申請してください。"),
        Code("remote_media_not_supported", 400, o.REFUSED_INVALID, _INVALID,
             "The media in {param} is a link; the gateway does not fetch media.",
             "{param} のメディアがリンクです。ゲートウェイはメディアを取得しません。",
             "Send the image as a data URL (data:image/png;base64,…).",
             "画像をデータURL（data:image/png;base64,…）で送ってください。"),
        Code("media_not_supported", 400, o.REFUSED_INVALID, _INVALID,
             "The model does not take the media in {param}.", "このモデルは {param} のメディアを受け付けません。",
             "Choose a model that lists this modality, or send text.",
             "この種類のメディアに対応するモデルを選ぶか、テキストを送ってください。"),
        Code("media_too_large", 400, o.REFUSED_INVALID, _INVALID,
             "The media in {param} is larger than {limit} bytes.", "{param} のメディアが{limit}バイトを超えています。",
             "Send a smaller image.", "より小さい画像を送ってください。"),
        Code("context_length_exceeded", 400, o.REFUSED_INVALID, _INVALID,
             "Prompt and answer do not fit into the model's context of {limit} tokens.",
             "入力と出力がモデルのコンテキスト長（{limit}トークン）に収まりません。",
             "Shorten the messages or lower max_tokens.", "メッセージを短くするか max_tokens を下げてください。"),
        Code("rejected_by_model", 400, o.REFUSED_INVALID, _INVALID,
             "The model server refused the request: {detail}", "モデルサーバーがリクエストを拒否しました: {detail}",
             "Change the named field.", "指摘されたフィールドを修正してください。"),
        Code("route_not_found", 404, o.REFUSED_INVALID, _INVALID,
             "There is no such route.", "この経路は存在しません。",
             "See the list of routes in the documentation.", "文書の経路一覧を確認してください。"),
        Code("method_not_allowed", 405, o.REFUSED_INVALID, _INVALID,
             "The route does not take this method.", "この経路ではそのメソッドを使えません。",
             "Use the documented method.", "文書に示されたメソッドを使ってください。"),
        Code("model_not_found", 404, o.REFUSED_INVALID, _INVALID,
             "The model does not exist or you have no access to it.", "モデルが存在しないか、利用権がありません。",
             "List your models with GET /v1/models.", "GET /v1/models で利用できるモデルを確認してください。"),
        Code("request_timeout", 408, o.REFUSED_INVALID, _INVALID,
             "The request did not arrive in time.", "リクエストが時間内に届きませんでした。",
             "Send headers and body without pauses.", "ヘッダーと本文を途切れずに送ってください。"),
        Code("body_too_large", 413, o.REFUSED_INVALID, _INVALID,
             "The body is larger than {limit} bytes.", "本文が{limit}バイトを超えています。",
             "Send a smaller body.", "本文を小さくしてください。"),
        Code("unsupported_encoding", 415, o.REFUSED_INVALID, _INVALID,
             "The body has a Content-Encoding; only identity is taken.",
             "本文に Content-Encoding が指定されています。identity のみ受け付けます。",
             "Send the body uncompressed.", "圧縮せずに送ってください。"),
        Code("unsupported_media_type", 415, o.REFUSED_INVALID, _INVALID,
             "The body is not declared as JSON.", "本文がJSONとして宣言されていません。",
             "Send Content-Type: application/json.", "Content-Type: application/json を指定してください。"),
        Code("headers_too_large", 431, o.REFUSED_INVALID, _INVALID,
             "The request's headers are too many or too long.", "リクエストのヘッダーが多すぎるか長すぎます。",
             "Send fewer or shorter headers.", "ヘッダーを減らすか短くしてください。"),
        Code("malformed_http", 400, o.REFUSED_INVALID, _INVALID,
             "The bytes received are not an HTTP/1.1 request.", "受信したデータはHTTP/1.1のリクエストではありません。",
             "Speak HTTP/1.1.", "HTTP/1.1で送ってください。"),
        Code("missing_api_key", 401, o.REFUSED_AUTH, _AUTH,
             "The request carries no API key.", "リクエストにAPIキーがありません。",
             "Send Authorization: Bearer <key>.", "Authorization: Bearer <key> を指定してください。"),
        Code("invalid_api_key", 401, o.REFUSED_AUTH, _AUTH,
             "The API key is not valid.", "APIキーが正しくありません。",
             "Check the key; ask your administrator for a new one.",
             "キーを確認し、必要なら管理者に新しいキーを依頼してください。"),
        Code("key_revoked", 401, o.REFUSED_AUTH, _AUTH,
             "The API key was revoked.", "APIキーは失効しています。",
             "Use a key that is in force.", "有効なキーを使ってください。"),
        Code("key_expired", 401, o.REFUSED_AUTH, _AUTH,
             "The API key has expired.", "APIキーの有効期限が切れています。",
             "Use a key that is in force.", "有効なキーを使ってください。"),
        Code("action_not_licensed", 403, o.REFUSED_LICENCE, _PERMISSION,
             "The licence does not permit {action} with this model.", "ライセンスはこのモデルでの {action} を許可していません。",
             "Ask for the action to be added to the licence.", "ライセンスへの追加を申請してください。"),
        Code("licence_not_yet_valid", 403, o.REFUSED_LICENCE, _PERMISSION,
             "The licence is not yet in force.", "ライセンスはまだ有効期間に入っていません。",
             "Wait for its first day or ask for another licence.", "開始日を待つか、別のライセンスを申請してください。"),
        Code("licence_expired", 403, o.REFUSED_LICENCE, _PERMISSION,
             "The licence has ended.", "ライセンスは終了しています。",
             "Ask for its renewal.", "更新を申請してください。"),
        Code("insufficient_quota", 429, o.REFUSED_QUOTA, "insufficient_quota",
             "The request needs up to {needed} {unit} and {remaining} remain of the limit {limit_name}.",
             "このリクエストには最大{needed}{unit}が必要ですが、上限 {limit_name} の残りは{remaining}です。",
             "Lower max_tokens, wait for the next period, or ask for a higher limit.",
             "max_tokens を下げるか、次の期間を待つか、上限の引き上げを申請してください。"),
        Code("rate_limit_exceeded", 429, o.REFUSED_RATE, "rate_limit_error",
             "The limit {limit_name} of {limit} is reached.", "上限 {limit_name}（{limit}）に達しました。",
             "Retry after the time in Retry-After.", "Retry-After の時間の後に再試行してください。"),
        Code("overloaded", 503, o.REFUSED_CAPACITY, "overloaded_error",
             "The model has no capacity at the moment.", "現在モデルに空きがありません。",
             "Retry after the time in Retry-After.", "Retry-After の時間の後に再試行してください。"),
        Code("store_unavailable", 503, o.REFUSED_CAPACITY, "overloaded_error",
             "The gateway cannot book requests at the moment, so it serves none.",
             "現在リクエストを記帳できないため、受け付けていません。",
             "Retry after the time in Retry-After.", "Retry-After の時間の後に再試行してください。"),
        Code("shutting_down", 503, o.REFUSED_CAPACITY, "overloaded_error",
             "This gateway process is shutting down.", "このゲートウェイは停止処理中です。",
             "Retry; another process answers.", "再試行してください。別のプロセスが応答します。"),
        Code("upstream_failed", 502, o.UPSTREAM_FAILED, _SERVER,
             "The model server failed.", "モデルサーバーでエラーが発生しました。",
             "Retry; nothing was charged if no answer arrived.",
             "再試行してください。応答が届いていなければ課金されません。"),
        Code("upstream_timeout", 504, o.UPSTREAM_TIMEOUT, _SERVER,
             "The model server did not answer in time ({phase}).", "モデルサーバーが時間内に応答しませんでした（{phase}）。",
             "Retry with a shorter prompt or a lower max_tokens.",
             "入力を短くするか max_tokens を下げて再試行してください。"),
        Code("internal", 500, o.INTERNAL, _SERVER,
             "The gateway failed.", "ゲートウェイでエラーが発生しました。",
             "Retry; report the request id if it happens again.",
             "再試行してください。繰り返す場合はリクエストIDをお知らせください。"),
        Code("client_gone", 499, o.CLIENT_GONE, _INVALID,
             "The client closed the connection.", "クライアントが接続を閉じました。",
             "Keep the connection open until the answer is complete.", "応答が終わるまで接続を保ってください。"),
    )  # fmt: skip


CATALOGUE: Mapping[str, Code] = {entry.name: entry for entry in _entries()}
