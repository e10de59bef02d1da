"""Recorded exchanges as entries of the cache: under which key an exchange's answer can be served, if at all.

The worker makes keys for requests as they come, this module for exchanges as they were recorded; both by the same
functions, so that what was recorded is found again.
"""

from __future__ import annotations

from collections.abc import Mapping

from gemini_caching_proxy.content_coding import uncoded
from gemini_caching_proxy.exchange import EntryKind, Exchange, Response
from gemini_caching_proxy.providers.base import CacheSubject, Endings, Provider
from gemini_caching_proxy.settings import Settings

from .directives import forbids_storing
from .key import SHARED, cache_key
from .normalisers import Normalisers
from .policy import NEVER, Policy, asks_plainly

_UNREAD = Endings(complete=False)


class Index:
    """Makes the entries of exchanges."""

    def __init__(
        self,
        providers: Mapping[str, Provider],
        policy: Policy,
        normalisers: Normalisers,
        *,
        shared: bool = False,
        upstream: str | None = None,
        largest: int = 2**62,
    ) -> None:
        """`shared`: one namespace for all. `upstream`: what stands in keys in place of the upstream that was called.

        `largest`: bytes of the largest body that is dealt with.
        """
        self._providers = providers
        self._policy = policy
        self._normalisers = normalisers
        self._shared = shared
        self._upstream = upstream
        self._largest = largest

    def __repr__(self) -> str:
        return f"<Index shared={self._shared} normalisers={self._normalisers.name!r}>"

    @classmethod
    def from_settings(cls, settings: Settings, providers: Mapping[str, Provider], *, imported: bool = False) -> Index:
        """`imported`: for exchanges from elsewhere, which then count as answers of the upstream that is set here.

        Raises ConfigError.
        """
        return cls(
            providers,
            Policy.from_settings(settings),
            Normalisers.of(settings.cache_normalisers, settings.cache_patterns),
            shared=imported or settings.cache_namespace == "shared",
            upstream=settings.gemini_base_url if imported else None,
            largest=settings.cache_max_body_bytes,
        )

    def subject(self, exchange: Exchange) -> CacheSubject | str:
        """What the exchange's request asks for, or why that cannot be cached."""
        provider = self._providers.get(exchange.provider)
        body = exchange.request_body
        kind = provider.cache_kind(exchange.operation) if provider is not None else None
        names = (name for name, _ in exchange.request_headers)
        if provider is None or kind is None or not asks_plainly(exchange.method, kind, names):
            return NEVER
        if not body.complete:
            return "the request is not recorded as a whole"
        if body.redacted:
            return "the request held a credential"
        if body.size > self._largest:
            return "the request is too large"
        plain = uncoded(exchange.request_headers, body.data)
        if plain.error is not None:
            return plain.error
        return provider.cache_subject(
            exchange.operation,
            exchange.model,
            exchange.target,
            exchange.request_headers,
            plain.data,
            self._normalisers if self._normalisers.name else None,
        )

    def key(self, subject: CacheSubject, exchange: Exchange) -> bytes:
        """The key for a subject, as the client of this exchange would ask."""
        return cache_key(
            subject,
            provider=exchange.provider,
            upstream=self._upstream or exchange.upstream,
            namespace=SHARED if self._shared else exchange.credential or SHARED,
            normalisers=self._normalisers.name,
        )

    def entry(self, exchange: Exchange) -> tuple[bytes, EntryKind] | None:
        """Key and kind of the exchange's entry; None if its answer can serve nobody."""
        response = exchange.outcome
        if not isinstance(response, Response) or (exchange.cache is not None and exchange.cache.served):
            return None
        body = response.body
        if not body.complete or body.redacted or body.size > self._largest:
            return None
        if forbids_storing(exchange.request_headers):
            return None
        subject = self.subject(exchange)
        if isinstance(subject, str):
            return None
        provider = self._providers[exchange.provider]
        endings = _UNREAD
        if response.status == 200:
            plain = uncoded(response.headers, body.data)
            if plain.error is not None:
                return None
            endings = provider.endings(exchange.operation, response.headers, plain.data)
        kind = self._policy.entry_kind(response.status, subject.kind, endings)
        return None if kind is None else (self.key(subject, exchange), kind)
