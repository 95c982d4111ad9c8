"""Permissions as types: a handler that takes a `CredentialWriter` is reached only by roles that may write credentials.

Each is a unit of work in a transaction (see `gateway.control.work`). Where the path names a tenant, the handler is
reached only when that tenant exists within the caller's reach; otherwise the answer is the same 404 for both.
"""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Request

from gateway.control.plane import Caller, Plane
from gateway.control.roles import Permission, allows
from gateway.control.tables import TENANT
from gateway.control.work import Work
from gateway.faults import Fault


class Granted:
    """The dependency that lets through who has `permission`, with a transaction of theirs. Without `whole` the work is
    no transaction: its steps are, and each stands when it is done."""

    def __init__(self, permission: Permission, *, whole: bool = True) -> None:
        self.permission = permission
        self._whole = whole

    async def __call__(self, request: Request) -> AsyncIterator[Work]:
        """The work of the request; it is committed before the answer is sent."""
        caller: Caller = request.state.caller
        plane: Plane = request.app.state.plane
        if not allows(caller.actor.role, self.permission):
            raise Fault("permission_denied", role=caller.actor.role, permission=self.permission)
        opened = plane.work(caller, writes=self.permission.writes) if self._whole else plane.steps(caller)
        async with opened as work:
            tenant_id = request.path_params.get("tenant_id")
            if tenant_id is not None:
                await work.get(TENANT, tenant_id)
            yield work


_P = Permission
Describer = Annotated[Work, Depends(Granted(_P.DESCRIBE), scope="function")]
RegisterReader = Annotated[Work, Depends(Granted(_P.REGISTER_READ), scope="function")]
TenantReader = Annotated[Work, Depends(Granted(_P.TENANT_READ), scope="function")]
TenantCreator = Annotated[Work, Depends(Granted(_P.TENANT_CREATE), scope="function")]
TenantUpdater = Annotated[Work, Depends(Granted(_P.TENANT_UPDATE), scope="function")]
SiteWriter = Annotated[Work, Depends(Granted(_P.SITE_WRITE), scope="function")]
ProjectReader = Annotated[Work, Depends(Granted(_P.PROJECT_READ), scope="function")]
ProjectWriter = Annotated[Work, Depends(Granted(_P.PROJECT_WRITE), scope="function")]
CredentialReader = Annotated[Work, Depends(Granted(_P.CREDENTIAL_READ), scope="function")]
CredentialWriter = Annotated[Work, Depends(Granted(_P.CREDENTIAL_WRITE), scope="function")]
LicenceReader = Annotated[Work, Depends(Granted(_P.LICENCE_READ), scope="function")]
LicenceSubmitter = Annotated[Work, Depends(Granted(_P.LICENCE_SUBMIT), scope="function")]
LicenceRevoker = Annotated[Work, Depends(Granted(_P.LICENCE_REVOKE), scope="function")]
LicenceSimulator = Annotated[Work, Depends(Granted(_P.LICENCE_SIMULATE), scope="function")]
TrustReader = Annotated[Work, Depends(Granted(_P.TRUST_READ), scope="function")]
TrustWriter = Annotated[Work, Depends(Granted(_P.TRUST_WRITE), scope="function")]
UpstreamReader = Annotated[Work, Depends(Granted(_P.UPSTREAM_READ), scope="function")]
UpstreamWriter = Annotated[Work, Depends(Granted(_P.UPSTREAM_WRITE), scope="function")]
RateCardReader = Annotated[Work, Depends(Granted(_P.RATE_CARD_READ), scope="function")]
RateCardWriter = Annotated[Work, Depends(Granted(_P.RATE_CARD_WRITE), scope="function")]
AgreementReader = Annotated[Work, Depends(Granted(_P.AGREEMENT_READ), scope="function")]
AgreementWriter = Annotated[Work, Depends(Granted(_P.AGREEMENT_WRITE), scope="function")]
LineageReader = Annotated[Work, Depends(Granted(_P.LINEAGE_READ), scope="function")]
LineageWriter = Annotated[Work, Depends(Granted(_P.LINEAGE_WRITE), scope="function")]
PriorityReader = Annotated[Work, Depends(Granted(_P.PRIORITY_READ), scope="function")]
PolicyReader = Annotated[Work, Depends(Granted(_P.POLICY_READ), scope="function")]
PolicySubmitter = Annotated[Work, Depends(Granted(_P.POLICY_SUBMIT), scope="function")]
BillingIssuerReader = Annotated[Work, Depends(Granted(_P.BILLING_ISSUER_READ), scope="function")]
BillingIssuerWriter = Annotated[Work, Depends(Granted(_P.BILLING_ISSUER_WRITE), scope="function")]
InvoiceReader = Annotated[Work, Depends(Granted(_P.INVOICE_READ), scope="function")]
# Settlement waits for the first step of a closing, so that step must not wait for the others.
InvoiceCloser = Annotated[Work, Depends(Granted(_P.INVOICE_CLOSE, whole=False), scope="function")]
InvoiceCreditor = Annotated[Work, Depends(Granted(_P.INVOICE_CREDIT), scope="function")]
AdminKeyReader = Annotated[Work, Depends(Granted(_P.ADMIN_KEY_READ), scope="function")]
AdminKeyWriter = Annotated[Work, Depends(Granted(_P.ADMIN_KEY_WRITE), scope="function")]
WebhookReader = Annotated[Work, Depends(Granted(_P.WEBHOOK_READ), scope="function")]
WebhookWriter = Annotated[Work, Depends(Granted(_P.WEBHOOK_WRITE), scope="function")]
UsageReader = Annotated[Work, Depends(Granted(_P.USAGE_READ), scope="function")]
AuditReader = Annotated[Work, Depends(Granted(_P.AUDIT_READ), scope="function")]
Planner = Annotated[Work, Depends(Granted(_P.PLAN), scope="function")]
Applier = Annotated[Work, Depends(Granted(_P.APPLY), scope="function")]
