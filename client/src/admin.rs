//! What administrators do: thin, typed calls. The values are those of the protocol, documented in `admin.proto`.

use std::sync::Arc;

use alluvium_proto::v1;
pub use alluvium_proto::v1::{
    Bookie, Broker, ConsumerStats, Finding, GetClusterResponse as Cluster, GetClusterStatusResponse as ClusterStatus, Health,
    Ledger, LedgerAudit, LedgerFragment, LedgerState, MetadataStatus, Namespace, OwnedPartition, OwnerReason, PartitionCursor,
    Policies, ReplicationPolicy, Subscription, SubscriptionType, Tenant, Topic, TopicPartition, TopicSegment,
};
use alluvium_proto::v1::{
    cluster_service_client::ClusterServiceClient, consume_service_client::ConsumeServiceClient,
    namespace_service_client::NamespaceServiceClient, subscription_service_client::SubscriptionServiceClient,
    tenant_service_client::TenantServiceClient, topic_service_client::TopicServiceClient,
};

use crate::connection::Connection;
use crate::error::Error;
use crate::message::{MessageId, Start};

/// What a page of a list holds: as many as a server gives, as etcd walks over all that lies behind a page to count it.
const PAGE: u32 = 1000;

/// Administrative calls of one client.
#[derive(Clone, Debug)]
pub struct Admin {
    connection: Arc<Connection>,
}

/// One short call: `call!(self, ServiceClient, method, request)`.
macro_rules! call {
    ($self:ident, $service:ident, $method:ident, $request:expr) => {{
        let mut service = $service::new($self.connection.calls());
        $self.connection.call(service.$method($request)).await
    }};
}

/// One short call that changes nothing.
macro_rules! ask {
    ($self:ident, $service:ident, $method:ident, $request:expr) => {{
        let mut service = $service::new($self.connection.calls());
        $self.connection.ask(service.$method($request)).await
    }};
}

/// A list, page after page.
macro_rules! pages {
    ($self:ident, $service:ident, $method:ident, $request:expr, $items:ident) => {{
        let mut items = Vec::new();
        let mut request = $request;
        loop {
            let answer = ask!($self, $service, $method, request.clone())?;
            items.extend(answer.$items);
            if answer.next_token.is_empty() {
                return Ok(items);
            }
            request.page = Some(v1::Page { size: PAGE, token: answer.next_token });
        }
    }};
}

fn first_page() -> Option<v1::Page> {
    Some(v1::Page { size: PAGE, token: String::new() })
}

fn present<T>(value: Option<T>) -> Result<T, Error> {
    value.ok_or(Error::Unexpected("an answer without its subject"))
}

impl Admin {
    pub(crate) const fn new(connection: Arc<Connection>) -> Self {
        Self { connection }
    }

    /// Creates a tenant.
    pub async fn create_tenant(&self, name: &str) -> Result<Tenant, Error> {
        let request = v1::CreateTenantRequest { name: name.to_owned() };
        present(call!(self, TenantServiceClient, create_tenant, request)?.tenant)
    }

    /// A tenant.
    pub async fn get_tenant(&self, name: &str) -> Result<Tenant, Error> {
        let request = v1::GetTenantRequest { name: name.to_owned() };
        present(ask!(self, TenantServiceClient, get_tenant, request)?.tenant)
    }

    /// All tenants.
    pub async fn list_tenants(&self) -> Result<Vec<Tenant>, Error> {
        let request = v1::ListTenantsRequest { page: first_page() };
        pages!(self, TenantServiceClient, list_tenants, request, tenants)
    }

    /// Deletes an empty tenant.
    pub async fn delete_tenant(&self, name: &str) -> Result<(), Error> {
        let request = v1::DeleteTenantRequest { name: name.to_owned() };
        call!(self, TenantServiceClient, delete_tenant, request).map(|_| ())
    }

    /// Creates `tenant/namespace`.
    pub async fn create_namespace(&self, name: &str, policies: Policies) -> Result<Namespace, Error> {
        let request = v1::CreateNamespaceRequest { name: name.to_owned(), policies: Some(policies) };
        present(call!(self, NamespaceServiceClient, create_namespace, request)?.namespace)
    }

    /// A namespace.
    pub async fn get_namespace(&self, name: &str) -> Result<Namespace, Error> {
        let request = v1::GetNamespaceRequest { name: name.to_owned() };
        present(ask!(self, NamespaceServiceClient, get_namespace, request)?.namespace)
    }

    /// All namespaces of a tenant.
    pub async fn list_namespaces(&self, tenant: &str) -> Result<Vec<Namespace>, Error> {
        let request = v1::ListNamespacesRequest { tenant: tenant.to_owned(), page: first_page() };
        pages!(self, NamespaceServiceClient, list_namespaces, request, namespaces)
    }

    /// Replaces all policies of a namespace.
    pub async fn update_namespace(&self, name: &str, policies: Policies) -> Result<Namespace, Error> {
        let request = v1::UpdateNamespaceRequest { name: name.to_owned(), policies: Some(policies) };
        present(call!(self, NamespaceServiceClient, update_namespace, request)?.namespace)
    }

    /// Deletes an empty namespace.
    pub async fn delete_namespace(&self, name: &str) -> Result<(), Error> {
        let request = v1::DeleteNamespaceRequest { name: name.to_owned() };
        call!(self, NamespaceServiceClient, delete_namespace, request).map(|_| ())
    }

    /// Creates `tenant/namespace/topic`.
    pub async fn create_topic(&self, name: &str, partitions: u32, policies: Policies) -> Result<Topic, Error> {
        let request = v1::CreateTopicRequest { name: name.to_owned(), partitions, policies: Some(policies) };
        present(call!(self, TopicServiceClient, create_topic, request)?.topic)
    }

    /// A topic and its partitions.
    pub async fn get_topic(&self, name: &str) -> Result<(Topic, Vec<TopicPartition>), Error> {
        let request = v1::GetTopicRequest { name: name.to_owned() };
        let answer = ask!(self, TopicServiceClient, get_topic, request)?;
        Ok((present(answer.topic)?, answer.partitions))
    }

    /// All topics of `tenant/namespace`.
    pub async fn list_topics(&self, namespace: &str) -> Result<Vec<Topic>, Error> {
        let request = v1::ListTopicsRequest { namespace: namespace.to_owned(), page: first_page() };
        pages!(self, TopicServiceClient, list_topics, request, topics)
    }

    /// Adds partitions, or replaces all policies, or both; what is `None` stays.
    pub async fn update_topic(&self, name: &str, partitions: Option<u32>, policies: Option<Policies>) -> Result<Topic, Error> {
        let request = v1::UpdateTopicRequest { name: name.to_owned(), partitions: partitions.unwrap_or(0), policies };
        present(call!(self, TopicServiceClient, update_topic, request)?.topic)
    }

    /// Deletes a topic, its messages and its subscriptions.
    pub async fn delete_topic(&self, name: &str) -> Result<(), Error> {
        let request = v1::DeleteTopicRequest { name: name.to_owned() };
        call!(self, TopicServiceClient, delete_topic, request).map(|_| ())
    }

    /// Says which broker shall own a partition; `None` leaves it to names and weights. It may not have moved yet when this is answered.
    pub async fn move_partition(&self, topic: &str, partition: u32, broker: Option<&str>) -> Result<TopicPartition, Error> {
        let broker = broker.unwrap_or_default().to_owned();
        let request = v1::MovePartitionRequest { topic: topic.to_owned(), partition, broker };
        present(call!(self, TopicServiceClient, move_partition, request)?.partition)
    }

    /// Creates a subscription that begins at `start`.
    pub async fn create_subscription(
        &self,
        topic: &str,
        name: &str,
        kind: SubscriptionType,
        start: Start,
    ) -> Result<Subscription, Error> {
        let request = v1::CreateSubscriptionRequest {
            topic: topic.to_owned(),
            name: name.to_owned(),
            r#type: kind.into(),
            start: Some(start.to_wire()),
        };
        present(call!(self, SubscriptionServiceClient, create_subscription, request)?.subscription)
    }

    /// A subscription.
    pub async fn get_subscription(&self, topic: &str, name: &str) -> Result<Subscription, Error> {
        let request = v1::GetSubscriptionRequest { topic: topic.to_owned(), name: name.to_owned() };
        present(ask!(self, SubscriptionServiceClient, get_subscription, request)?.subscription)
    }

    /// All subscriptions of a topic.
    pub async fn list_subscriptions(&self, topic: &str) -> Result<Vec<Subscription>, Error> {
        let request = v1::ListSubscriptionsRequest { topic: topic.to_owned(), page: first_page() };
        pages!(self, SubscriptionServiceClient, list_subscriptions, request, subscriptions)
    }

    /// Deletes a subscription.
    pub async fn delete_subscription(&self, topic: &str, name: &str) -> Result<(), Error> {
        let request = v1::DeleteSubscriptionRequest { topic: topic.to_owned(), name: name.to_owned() };
        call!(self, SubscriptionServiceClient, delete_subscription, request).map(|_| ())
    }

    /// A subscription, and its place in each partition.
    pub async fn subscription_stats(&self, topic: &str, name: &str) -> Result<(Subscription, Vec<PartitionCursor>), Error> {
        let request = v1::GetSubscriptionStatsRequest { topic: topic.to_owned(), name: name.to_owned() };
        let answer = ask!(self, SubscriptionServiceClient, get_subscription_stats, request)?;
        Ok((present(answer.subscription)?, answer.partitions))
    }

    /// Moves a subscription's cursor in these partitions, or in all of them if none is given. Says where each stands now.
    pub async fn seek_subscription(
        &self,
        topic: &str,
        name: &str,
        partitions: &[u32],
        to: Start,
    ) -> Result<Vec<MessageId>, Error> {
        let request = v1::SeekSubscriptionRequest {
            topic: topic.to_owned(),
            name: name.to_owned(),
            partitions: partitions.to_vec(),
            position: Some(to.to_wire()),
        };
        let answer = call!(self, SubscriptionServiceClient, seek_subscription, request)?;
        Ok(answer.cursors.into_iter().map(|id| MessageId { partition: id.partition, offset: id.offset }).collect())
    }

    /// Acknowledges messages of a subscription without a consumer; durable when answered.
    pub async fn acknowledge(&self, topic: &str, subscription: &str, ids: &[MessageId]) -> Result<(), Error> {
        let request = v1::AcknowledgeRequest {
            topic: topic.to_owned(),
            subscription: subscription.to_owned(),
            ids: ids.iter().map(|id| v1::MessageId { partition: id.partition, offset: id.offset }).collect(),
            up_to: Vec::new(),
        };
        call!(self, ConsumeServiceClient, acknowledge, request).map(|_| ())
    }

    /// Figures of the cluster.
    pub async fn cluster(&self) -> Result<Cluster, Error> {
        ask!(self, ClusterServiceClient, get_cluster, v1::GetClusterRequest {})
    }

    /// Whether all is well with the cluster, and what is not.
    pub async fn cluster_status(&self) -> Result<ClusterStatus, Error> {
        ask!(self, ClusterServiceClient, get_cluster_status, v1::GetClusterStatusRequest {})
    }

    /// The brokers that live.
    pub async fn list_brokers(&self) -> Result<Vec<Broker>, Error> {
        Ok(ask!(self, ClusterServiceClient, list_brokers, v1::ListBrokersRequest {})?.brokers)
    }

    /// All partitions that a broker owns by their records. The server looks at all owners' records for that.
    pub async fn list_broker_partitions(&self, broker: &str) -> Result<Vec<OwnedPartition>, Error> {
        let request = v1::ListBrokerPartitionsRequest { broker: broker.to_owned(), page: first_page() };
        pages!(self, ClusterServiceClient, list_broker_partitions, request, partitions)
    }

    /// Whether a broker owns any partition by its record.
    pub async fn owns_any(&self, broker: &str) -> Result<bool, Error> {
        let page = |token| Some(v1::Page { size: 1, token });
        let mut request = v1::ListBrokerPartitionsRequest { broker: broker.to_owned(), page: page(String::new()) };
        loop {
            let answer = ask!(self, ClusterServiceClient, list_broker_partitions, request.clone())?;
            if !answer.partitions.is_empty() || answer.next_token.is_empty() {
                return Ok(!answer.partitions.is_empty());
            }
            request.page = page(answer.next_token);
        }
    }

    /// Has a broker hand over what it owns and take nothing new, or serve again; the one that answers if none is named. It may
    /// still own partitions when this is answered.
    pub async fn drain_broker(&self, name: Option<&str>, undo: bool) -> Result<Broker, Error> {
        let request = v1::DrainBrokerRequest { name: name.unwrap_or_default().to_owned(), undo };
        present(call!(self, ClusterServiceClient, drain_broker, request)?.broker)
    }

    /// All bookies.
    pub async fn list_bookies(&self) -> Result<Vec<Bookie>, Error> {
        Ok(ask!(self, ClusterServiceClient, list_bookies, v1::ListBookiesRequest {})?.bookies)
    }

    /// A ledger.
    pub async fn get_ledger(&self, id: u64) -> Result<Ledger, Error> {
        present(ask!(self, ClusterServiceClient, get_ledger, v1::GetLedgerRequest { id })?.ledger)
    }

    /// All ledgers, or those that are short of copies.
    pub async fn list_ledgers(&self, under_replicated_only: bool) -> Result<Vec<Ledger>, Error> {
        let request = v1::ListLedgersRequest { page: first_page(), under_replicated_only };
        pages!(self, ClusterServiceClient, list_ledgers, request, ledgers)
    }
}
