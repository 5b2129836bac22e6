//! Tenants.

use alluvium_client::admin;
use clap::Subcommand;
use serde::Serialize;
use serde_json::json;

use crate::command::Common;
use crate::exit::{Failure, Subject, about};
use crate::output::Show;
use crate::units::show_time;

#[derive(Debug, Subcommand)]
pub(crate) enum Tenant {
    /// Create a tenant
    Create {
        /// Its name
        name: String,
    },
    /// Show a tenant
    Get {
        /// Its name
        name: String,
    },
    /// List all tenants
    List,
    /// Delete an empty tenant
    Delete {
        /// Its name
        name: String,
    },
}

#[derive(Serialize)]
struct View {
    name: String,
    created_ms: u64,
}

impl From<admin::Tenant> for View {
    fn from(tenant: admin::Tenant) -> Self {
        Self { name: tenant.name, created_ms: tenant.created_ms }
    }
}

impl Show for View {
    fn columns() -> &'static [&'static str] {
        &["TENANT", "CREATED"]
    }

    fn row(&self) -> Vec<String> {
        vec![self.name.clone(), show_time(self.created_ms)]
    }
}

impl Tenant {
    pub(crate) async fn run(self, common: &Common) -> Result<(), Failure> {
        let (output, admin) = (common.output, common.server.admin().await?);
        match self {
            Self::Create { name } => {
                let created = admin.create_tenant(&name).await;
                output.one(&View::from(created.map_err(about(Subject::new("tenant", &name).creating()))?))
            }
            Self::Get { name } => {
                let found = admin.get_tenant(&name).await;
                output.one(&View::from(found.map_err(about(Subject::new("tenant", &name)))?))
            }
            Self::List => output.many("tenants", &admin.list_tenants().await?.into_iter().map(View::from).collect::<Vec<_>>()),
            Self::Delete { name } => {
                admin.delete_tenant(&name).await.map_err(about(Subject::new("tenant", &name)))?;
                output.done(&format!("tenant {name} is deleted"), &json!({ "deleted": name }))
            }
        }
    }
}
