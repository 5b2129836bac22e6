//! All public services of a broker, as routes that a listener serves.

use alluvium_proto::v1;
use alluvium_proto::v1::cluster_service_server::ClusterServiceServer;
use alluvium_proto::v1::connect_service_server::ConnectServiceServer;
use alluvium_proto::v1::consume_service_server::ConsumeServiceServer;
use alluvium_proto::v1::namespace_service_server::NamespaceServiceServer;
use alluvium_proto::v1::publish_service_server::PublishServiceServer;
use alluvium_proto::v1::subscription_service_server::SubscriptionServiceServer;
use alluvium_proto::v1::tenant_service_server::TenantServiceServer;
use alluvium_proto::v1::topic_service_server::TopicServiceServer;
use prometheus_client::registry::Registry;
use tonic::service::Routes;

use crate::admin::AdminEdge;
use crate::broker::Broker;
use crate::deliver::ConsumeEdge;
use crate::publish::intake::Intake;
use crate::publish::{PublishEdge, Taken};

/// The routes of the public services; what they count goes to `registry`. Health and reflection are added by whoever listens.
pub fn routes(broker: &Broker, registry: &mut Registry) -> Routes {
    let rpc_bytes_max = broker.limits().rpc_bytes_max();
    let consume = ConsumeEdge::new(broker.clone());
    consume.metrics().register(registry);
    let consume =
        ConsumeServiceServer::new(consume).max_decoding_message_size(rpc_bytes_max).max_encoding_message_size(rpc_bytes_max);
    let publish = PublishServiceServer::new(PublishEdge::new(broker.clone()))
        .max_decoding_message_size(rpc_bytes_max)
        .max_encoding_message_size(rpc_bytes_max);
    let context = broker.context();
    let publish = Taken::<_, v1::PublishStreamRequest>::new(publish, "PublishStream", rpc_bytes_max);
    let publish = Intake::new(publish, context.intake_budget.clone(), context.clock.clone());
    let admin = AdminEdge::new(broker.clone());
    Routes::new(consume)
        .add_service(publish)
        .add_service(ConnectServiceServer::new(admin.clone()))
        .add_service(TenantServiceServer::new(admin.clone()))
        .add_service(NamespaceServiceServer::new(admin.clone()))
        .add_service(TopicServiceServer::new(admin.clone()))
        .add_service(SubscriptionServiceServer::new(admin.clone()))
        .add_service(ClusterServiceServer::new(admin))
}
