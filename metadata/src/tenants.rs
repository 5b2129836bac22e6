//! Tenants and namespaces: what holds topics and their policies.
//!
//! Both are deleted in two steps, so that nothing can be created inside meanwhile: the record is marked, which every creation
//! inside compares, and goes once a listing shows it empty. A crash in between leaves the mark; deleting again finishes it.

use alluvium_proto::internal::v1 as wire;
use alluvium_types::names::{NamespaceName, NamespacePart, TenantName};
use alluvium_types::time::Timestamp;

use crate::client::{Decided, Metadata, Witness};
use crate::error::{ReadError, UpdateError};
use crate::keys::{self, Key};
use crate::policies::Policies;
use crate::record::{self, Listing, Record, Versioned};
use crate::store::{Condition, Txn};

/// What is known of a tenant or a namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Holder {
    /// Its own settings.
    pub policies: Policies,
    /// When it was made.
    pub created: Timestamp,
    /// Whether it is being deleted, and takes nothing new.
    pub deleting: bool,
}

/// The repository of tenants.
#[derive(Clone, Debug)]
pub struct Tenants(Metadata);

/// The repository of namespaces.
#[derive(Clone, Debug)]
pub struct Namespaces(Metadata);

impl Metadata {
    /// Tenants.
    pub fn tenants(&self) -> Tenants {
        Tenants(self.clone())
    }

    /// Namespaces.
    pub fn namespaces(&self) -> Namespaces {
        Namespaces(self.clone())
    }

    async fn put_holder(
        &self,
        what: &'static str,
        key: Key<'_>,
        read: &Versioned<Holder>,
        new: Holder,
    ) -> Result<Versioned<Holder>, UpdateError> {
        let (key, nonce) = (key.encode(), self.nonce());
        let txn =
            Txn::new().when(key.clone(), Condition::ModRevision(read.mod_revision)).put(key.clone(), record::encode(&new, nonce));
        match self.commit(&txn, &Witness::Nonce { key, nonce }).await? {
            Decided::Committed(revision) => Ok(read.rewritten(new, revision)),
            Decided::Conflict => Err(UpdateError::Conflict { what }),
        }
    }

    /// Deletes a holder if nothing lies under `inside`.
    async fn delete_holder(
        &self,
        what: &'static str,
        key: Key<'_>,
        inside: Key<'_>,
        read: &Versioned<Holder>,
    ) -> Result<(), UpdateError> {
        let marked = self.put_holder(what, key, read, Holder { deleting: true, ..read.value }).await?;
        let page = self.page(inside, None, 1).await?;
        if !page.value.records.is_empty() {
            self.put_holder(what, key, &marked, Holder { deleting: false, ..read.value }).await?;
            return Err(UpdateError::NotEmpty { what });
        }
        let key = key.encode();
        let txn = Txn::new().when(key.clone(), Condition::ModRevision(marked.mod_revision)).delete(key.clone());
        match self.commit(&txn, &Witness::Gone { key }).await? {
            Decided::Committed(_) => Ok(()),
            Decided::Conflict => Err(UpdateError::Conflict { what }),
        }
    }
}

impl Tenants {
    /// Makes a tenant.
    pub async fn create(&self, name: &TenantName, policies: Policies) -> Result<Versioned<Holder>, UpdateError> {
        let holder = Holder { policies, created: self.0.clock().wall(), deleting: false };
        let (key, nonce) = (Key::Tenant(name).encode(), self.0.nonce());
        let txn = Txn::new().when(key.clone(), Condition::Absent).put(key.clone(), record::encode(&holder, nonce));
        match self.0.commit(&txn, &Witness::Nonce { key, nonce }).await? {
            Decided::Committed(revision) => Ok(Versioned::created(holder, revision)),
            Decided::Conflict => Err(UpdateError::Exists { what: "the tenant" }),
        }
    }

    /// A tenant, if there is one.
    pub async fn get(&self, name: &TenantName) -> Result<Option<Versioned<Holder>>, ReadError> {
        self.0.read(Key::Tenant(name)).await
    }

    /// Changes a tenant's settings.
    pub async fn set_policies(
        &self,
        name: &TenantName,
        read: &Versioned<Holder>,
        policies: Policies,
    ) -> Result<Versioned<Holder>, UpdateError> {
        self.0.put_holder("the tenant", Key::Tenant(name), read, Holder { policies, ..read.value }).await
    }

    /// Deletes a tenant that has no namespaces; else [`UpdateError::NotEmpty`].
    pub async fn delete(&self, name: &TenantName, read: &Versioned<Holder>) -> Result<(), UpdateError> {
        self.0.delete_holder("the tenant", Key::Tenant(name), Key::Namespaces(name), read).await
    }

    /// Tenants in name order, behind `after`.
    pub async fn list(
        &self,
        after: Option<&TenantName>,
        limit: usize,
    ) -> Result<Listing<(TenantName, Versioned<Holder>), TenantName>, ReadError> {
        let after = after.map(|name| Key::Tenant(name).encode());
        let page = self.0.page(Key::Tenants, after, limit).await?.value;
        record::listing(page, |found| {
            let name = keys::rest_of(&found.key, &Key::Tenants)?;
            TenantName::parse(&name).ok()
        })
    }
}

impl Namespaces {
    /// Makes a namespace in a tenant that exists.
    pub async fn create(&self, name: &NamespaceName, policies: Policies) -> Result<Versioned<Holder>, UpdateError> {
        loop {
            let tenant = self.0.read::<Holder>(Key::Tenant(name.tenant())).await?;
            let tenant = tenant.filter(|t| !t.value.deleting).ok_or(UpdateError::NotFound { what: "the tenant" })?;
            let holder = Holder { policies, created: self.0.clock().wall(), deleting: false };
            let (key, nonce) = (Key::Namespace(name).encode(), self.0.nonce());
            let txn = Txn::new()
                .when(key.clone(), Condition::Absent)
                .when(Key::Tenant(name.tenant()).encode(), Condition::ModRevision(tenant.mod_revision))
                .put(key.clone(), record::encode(&holder, nonce));
            match self.0.commit(&txn, &Witness::Nonce { key, nonce }).await? {
                Decided::Committed(revision) => return Ok(Versioned::created(holder, revision)),
                Decided::Conflict if self.get(name).await?.is_some() => {
                    return Err(UpdateError::Exists { what: "the namespace" });
                }
                // The tenant's record moved on: look at it again.
                Decided::Conflict => {}
            }
        }
    }

    /// A namespace, if there is one.
    pub async fn get(&self, name: &NamespaceName) -> Result<Option<Versioned<Holder>>, ReadError> {
        self.0.read(Key::Namespace(name)).await
    }

    /// Changes a namespace's settings.
    pub async fn set_policies(
        &self,
        name: &NamespaceName,
        read: &Versioned<Holder>,
        policies: Policies,
    ) -> Result<Versioned<Holder>, UpdateError> {
        self.0.put_holder("the namespace", Key::Namespace(name), read, Holder { policies, ..read.value }).await
    }

    /// Deletes a namespace that has no topics; else [`UpdateError::NotEmpty`].
    pub async fn delete(&self, name: &NamespaceName, read: &Versioned<Holder>) -> Result<(), UpdateError> {
        self.0.delete_holder("the namespace", Key::Namespace(name), Key::Topics(name), read).await
    }

    /// Namespaces of a tenant in name order, behind `after`.
    pub async fn list(
        &self,
        tenant: &TenantName,
        after: Option<&NamespaceName>,
        limit: usize,
    ) -> Result<Listing<(NamespaceName, Versioned<Holder>), NamespaceName>, ReadError> {
        let after = after.map(|name| Key::Namespace(name).encode());
        let page = self.0.page(Key::Namespaces(tenant), after, limit).await?.value;
        record::listing(page, |found| {
            let part = keys::rest_of(&found.key, &Key::Namespaces(tenant))?;
            Some(NamespaceName::new(tenant.clone(), NamespacePart::parse(&part).ok()?))
        })
    }
}

impl Record for Holder {
    type Wire = wire::HolderRecord;

    fn to_wire(&self) -> Self::Wire {
        wire::HolderRecord {
            policies: Some(self.policies.to_wire()),
            created_ms: self.created.as_millis(),
            deleting: self.deleting,
        }
    }

    fn from_wire(wire: Self::Wire) -> Result<Self, String> {
        Ok(Self {
            policies: Policies::from_wire(wire.policies)?,
            created: Timestamp::from_millis(wire.created_ms),
            deleting: wire.deleting,
        })
    }
}
