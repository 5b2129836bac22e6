//! Namespaces.

use alluvium_metadata::Versioned;
use alluvium_metadata::tenants::Holder;
use alluvium_proto::v1;
use alluvium_proto::v1::namespace_service_server::NamespaceService;
use alluvium_types::names::{NamespaceName, TenantName};
use tonic::{Request, Response, Status};

use super::AdminEdge;
use super::fault::{Refused, absent};
use super::{page, policies};

#[tonic::async_trait]
impl NamespaceService for AdminEdge {
    async fn create_namespace(
        &self,
        request: Request<v1::CreateNamespaceRequest>,
    ) -> Result<Response<v1::CreateNamespaceResponse>, Status> {
        let namespace = self.namespace_created(request.into_inner()).await?;
        Ok(Response::new(v1::CreateNamespaceResponse { namespace: Some(namespace) }))
    }

    async fn get_namespace(
        &self,
        request: Request<v1::GetNamespaceRequest>,
    ) -> Result<Response<v1::GetNamespaceResponse>, Status> {
        let name = NamespaceName::parse(&request.into_inner().name).map_err(Refused::from)?;
        let found = self.namespace_read(&name).await?;
        Ok(Response::new(v1::GetNamespaceResponse { namespace: Some(shown(&name, &found.value)) }))
    }

    async fn list_namespaces(
        &self,
        request: Request<v1::ListNamespacesRequest>,
    ) -> Result<Response<v1::ListNamespacesResponse>, Status> {
        Ok(Response::new(self.namespaces_listed(&request.into_inner()).await?))
    }

    async fn update_namespace(
        &self,
        request: Request<v1::UpdateNamespaceRequest>,
    ) -> Result<Response<v1::UpdateNamespaceResponse>, Status> {
        let namespace = self.namespace_updated(request.into_inner()).await?;
        Ok(Response::new(v1::UpdateNamespaceResponse { namespace: Some(namespace) }))
    }

    async fn delete_namespace(
        &self,
        request: Request<v1::DeleteNamespaceRequest>,
    ) -> Result<Response<v1::DeleteNamespaceResponse>, Status> {
        self.namespace_deleted(&request.into_inner().name).await?;
        Ok(Response::new(v1::DeleteNamespaceResponse {}))
    }
}

fn shown(name: &NamespaceName, holder: &Holder) -> v1::Namespace {
    v1::Namespace {
        name: name.to_string(),
        created_ms: holder.created.as_millis(),
        policies: Some(policies::to_wire(&holder.policies)),
    }
}

impl AdminEdge {
    async fn namespace_created(&self, request: v1::CreateNamespaceRequest) -> Result<v1::Namespace, Refused> {
        let name = NamespaceName::parse(&request.name)?;
        let policies = policies::from_wire(request.policies)?;
        let made = self.broker.metadata().namespaces().create(&name, policies).await?;
        Ok(shown(&name, &made.value))
    }

    /// The namespace's record, which must be there.
    pub(super) async fn namespace_read(&self, name: &NamespaceName) -> Result<Versioned<Holder>, Refused> {
        let found = self.broker.metadata().namespaces().get(name).await?;
        found.ok_or_else(|| absent("namespace", "NAMESPACE_NOT_FOUND", name))
    }

    async fn namespaces_listed(&self, request: &v1::ListNamespacesRequest) -> Result<v1::ListNamespacesResponse, Refused> {
        let tenant = TenantName::parse(&request.tenant)?;
        let page = request.page.as_ref();
        let (size, after) = (page::size(page)?, page::after(page, NamespaceName::parse)?);
        if after.as_ref().is_some_and(|a| a.tenant() != &tenant) {
            return Err(page::bad_token());
        }
        let metadata = self.broker.metadata();
        if metadata.tenants().get(&tenant).await?.is_none() {
            return Err(absent("tenant", "TENANT_NOT_FOUND", &tenant));
        }
        let listing = metadata.namespaces().list(&tenant, after.as_ref(), size).await?;
        Ok(v1::ListNamespacesResponse {
            namespaces: listing.records.iter().map(|(name, namespace)| shown(name, &namespace.value)).collect(),
            next_token: page::token(listing.next),
        })
    }

    async fn namespace_updated(&self, request: v1::UpdateNamespaceRequest) -> Result<v1::Namespace, Refused> {
        let name = NamespaceName::parse(&request.name)?;
        let policies = policies::from_wire(request.policies)?;
        let read = self.namespace_read(&name).await?;
        let updated = self.broker.metadata().namespaces().set_policies(&name, &read, policies).await?;
        Ok(shown(&name, &updated.value))
    }

    async fn namespace_deleted(&self, name: &str) -> Result<(), Refused> {
        let name = NamespaceName::parse(name)?;
        let read = self.namespace_read(&name).await?;
        Ok(self.broker.metadata().namespaces().delete(&name, &read).await?)
    }
}
