//! Tenants.

use alluvium_metadata::policies::Policies;
use alluvium_metadata::tenants::Holder;
use alluvium_proto::v1;
use alluvium_proto::v1::tenant_service_server::TenantService;
use alluvium_types::names::TenantName;
use tonic::{Request, Response, Status};

use super::AdminEdge;
use super::fault::{Refused, absent};
use super::page;

#[tonic::async_trait]
impl TenantService for AdminEdge {
    async fn create_tenant(
        &self,
        request: Request<v1::CreateTenantRequest>,
    ) -> Result<Response<v1::CreateTenantResponse>, Status> {
        let tenant = self.tenant_created(&request.into_inner().name).await?;
        Ok(Response::new(v1::CreateTenantResponse { tenant: Some(tenant) }))
    }

    async fn get_tenant(&self, request: Request<v1::GetTenantRequest>) -> Result<Response<v1::GetTenantResponse>, Status> {
        let tenant = self.tenant_found(&request.into_inner().name).await?;
        Ok(Response::new(v1::GetTenantResponse { tenant: Some(tenant) }))
    }

    async fn list_tenants(&self, request: Request<v1::ListTenantsRequest>) -> Result<Response<v1::ListTenantsResponse>, Status> {
        Ok(Response::new(self.tenants_listed(request.into_inner().page.as_ref()).await?))
    }

    async fn delete_tenant(
        &self,
        request: Request<v1::DeleteTenantRequest>,
    ) -> Result<Response<v1::DeleteTenantResponse>, Status> {
        self.tenant_deleted(&request.into_inner().name).await?;
        Ok(Response::new(v1::DeleteTenantResponse {}))
    }
}

fn shown(name: &TenantName, holder: &Holder) -> v1::Tenant {
    v1::Tenant { name: name.to_string(), created_ms: holder.created.as_millis() }
}

impl AdminEdge {
    async fn tenant_created(&self, name: &str) -> Result<v1::Tenant, Refused> {
        let name = TenantName::parse(name)?;
        let made = self.broker.metadata().tenants().create(&name, Policies::default()).await?;
        Ok(shown(&name, &made.value))
    }

    async fn tenant_found(&self, name: &str) -> Result<v1::Tenant, Refused> {
        let name = TenantName::parse(name)?;
        let found = self.broker.metadata().tenants().get(&name).await?;
        found.map(|t| shown(&name, &t.value)).ok_or_else(|| absent("tenant", "TENANT_NOT_FOUND", &name))
    }

    async fn tenants_listed(&self, page: Option<&v1::Page>) -> Result<v1::ListTenantsResponse, Refused> {
        let (size, after) = (page::size(page)?, page::after(page, TenantName::parse)?);
        let listing = self.broker.metadata().tenants().list(after.as_ref(), size).await?;
        Ok(v1::ListTenantsResponse {
            tenants: listing.records.iter().map(|(name, tenant)| shown(name, &tenant.value)).collect(),
            next_token: page::token(listing.next),
        })
    }

    async fn tenant_deleted(&self, name: &str) -> Result<(), Refused> {
        let name = TenantName::parse(name)?;
        let tenants = self.broker.metadata().tenants();
        let found = tenants.get(&name).await?.ok_or_else(|| absent("tenant", "TENANT_NOT_FOUND", &name))?;
        Ok(tenants.delete(&name, &found).await?)
    }
}
