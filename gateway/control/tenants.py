"""`/tenants` and their projects."""

from typing import Annotated, Any

from fastapi import Query

from gateway.control.access import ProjectReader, ProjectWriter, SiteWriter, TenantCreator, TenantReader, TenantUpdater
from gateway.control.answers import Listed, Project, Tenant
from gateway.control.forms import NewProject, NewTenant, OwnSites, ProjectChange, TenantChange
from gateway.control.paging import Paging
from gateway.control.route import router
from gateway.control.store import Row
from gateway.control.tables import PROJECT, TENANT

routes = router("tenants")


@routes.get("/tenants", response_model=Listed[Tenant])
async def list_tenants(work: TenantReader, paging: Annotated[Paging, Query()]) -> dict[str, Any]:
    """The tenants within reach."""
    return paging.answer(TENANT, await work.page(TENANT, paging.page(TENANT)))


@routes.post("/tenants", status_code=201, response_model=Tenant)
async def create_tenant(work: TenantCreator, body: NewTenant) -> Row:
    """A new tenant. It may do nothing yet: that takes a licence and a credential."""
    return await work.create(TENANT, body.model_dump())


@routes.get("/tenants/{tenant_id}", response_model=Tenant)
async def show_tenant(work: TenantReader, tenant_id: str) -> Row:
    """One tenant."""
    return await work.get(TENANT, tenant_id)


@routes.patch("/tenants/{tenant_id}", response_model=Tenant)
async def update_tenant(work: TenantUpdater, tenant_id: str, body: TenantChange) -> Row:
    """Change what the body names."""
    return await work.amend(TENANT, await work.get(TENANT, tenant_id), NewTenant, body.given())


@routes.post("/tenants/{tenant_id}/sites", response_model=Tenant)
async def name_sites(work: SiteWriter, tenant_id: str, body: OwnSites) -> Row:
    """Say which sites are the tenant's own. Its secret data goes there, and nowhere else."""
    return await work.update(TENANT, await work.get(TENANT, tenant_id), body.model_dump())


@routes.get("/tenants/{tenant_id}/projects", response_model=Listed[Project])
async def list_projects(work: ProjectReader, tenant_id: str, paging: Annotated[Paging, Query()]) -> dict[str, Any]:
    """A tenant's projects."""
    return paging.answer(PROJECT, await work.page(PROJECT, paging.page(PROJECT, tenant_id=tenant_id)))


@routes.post("/tenants/{tenant_id}/projects", status_code=201, response_model=Project)
async def create_project(work: ProjectWriter, tenant_id: str, body: NewProject) -> Row:
    """A new project."""
    return await work.create(PROJECT, {"tenant_id": tenant_id, **body.model_dump()})


@routes.get("/tenants/{tenant_id}/projects/{project_id}", response_model=Project)
async def show_project(work: ProjectReader, tenant_id: str, project_id: str) -> Row:
    """One project."""
    return await work.get(PROJECT, tenant_id, project_id)


@routes.patch("/tenants/{tenant_id}/projects/{project_id}", response_model=Project)
async def update_project(work: ProjectWriter, tenant_id: str, project_id: str, body: ProjectChange) -> Row:
    """Change what the body names."""
    return await work.amend(PROJECT, await work.get(PROJECT, tenant_id, project_id), NewProject, body.given())
