//! Namespaces.

use alluvium_client::admin;
use clap::Subcommand;
use serde::Serialize;
use serde_json::json;

use crate::command::Common;
use crate::exit::{Failure, Subject, about};
use crate::output::Show;
use crate::policies::{self, Policy, PolicyArgs};
use crate::units::show_time;

#[derive(Debug, Subcommand)]
pub(crate) enum Namespace {
    /// Create a namespace
    Create {
        /// tenant/namespace
        name: String,
        #[command(flatten)]
        policies: PolicyArgs,
    },
    /// Show a namespace
    Get {
        /// tenant/namespace
        name: String,
    },
    /// List the namespaces of a tenant
    List {
        /// The tenant
        tenant: String,
    },
    /// Change policies; those not named stay
    Update {
        /// tenant/namespace
        name: String,
        #[command(flatten)]
        policies: PolicyArgs,
        /// Go back to what the cluster says, of these policies
        #[arg(long, value_name = "POLICY", value_enum, value_delimiter = ',')]
        unset: Vec<Policy>,
    },
    /// Delete an empty namespace
    Delete {
        /// tenant/namespace
        name: String,
    },
}

#[derive(Serialize)]
struct View {
    name: String,
    created_ms: u64,
    policies: policies::View,
}

impl From<admin::Namespace> for View {
    fn from(namespace: admin::Namespace) -> Self {
        let policies = namespace.policies.into();
        Self { name: namespace.name, created_ms: namespace.created_ms, policies }
    }
}

impl Show for View {
    fn columns() -> &'static [&'static str] {
        &["NAMESPACE", "CREATED", "POLICIES"]
    }

    fn row(&self) -> Vec<String> {
        vec![self.name.clone(), show_time(self.created_ms), self.policies.to_string()]
    }
}

impl Namespace {
    pub(crate) async fn run(self, common: &Common) -> Result<(), Failure> {
        let (output, admin) = (common.output, common.server.admin().await?);
        match self {
            Self::Create { name, policies } => {
                let policies = policies.over(admin::Policies::default(), &[]);
                let created = admin.create_namespace(&name, policies).await;
                output.one(&View::from(created.map_err(about(Subject::new("namespace", &name).creating()))?))
            }
            Self::Get { name } => {
                let found = admin.get_namespace(&name).await;
                output.one(&View::from(found.map_err(about(Subject::new("namespace", &name)))?))
            }
            Self::List { tenant } => {
                let namespaces = admin.list_namespaces(&tenant).await.map_err(about(Subject::new("tenant", &tenant)))?;
                output.many("namespaces", &namespaces.into_iter().map(View::from).collect::<Vec<_>>())
            }
            Self::Update { name, policies, unset } => {
                if policies.is_empty() && unset.is_empty() {
                    return Err(Failure::usage("nothing to change").advise("name a policy; see --help"));
                }
                let subject = Subject::new("namespace", &name);
                let before = admin.get_namespace(&name).await.map_err(about(subject))?.policies.unwrap_or_default();
                let updated = admin.update_namespace(&name, policies.over(before, &unset)).await;
                output.one(&View::from(updated.map_err(about(subject))?))
            }
            Self::Delete { name } => {
                admin.delete_namespace(&name).await.map_err(about(Subject::new("namespace", &name)))?;
                output.done(&format!("namespace {name} is deleted"), &json!({ "deleted": name }))
            }
        }
    }
}
