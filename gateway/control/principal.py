"""Who acts on the admin plane, and how far."""

from dataclasses import dataclass

from gateway.control.roles import Role


@dataclass(frozen=True, slots=True)
class Reach:
    """The tenants that an administrator may see and change; None: every one. Every query takes one."""

    tenants: frozenset[str] | None

    def covers(self, tenant_id: str) -> bool:
        """Whether `tenant_id` is within reach."""
        return self.tenants is None or tenant_id in self.tenants

    def argument(self) -> list[str] | None:
        """As an argument of SQL: `($1::text[] IS NULL OR tenant_id = ANY($1))`."""
        return None if self.tenants is None else sorted(self.tenants)


EVERYWHERE = Reach(None)


@dataclass(frozen=True, slots=True)
class AdminPrincipal:
    """An admin key that proved itself."""

    key_id: str
    role: Role
    reach: Reach
