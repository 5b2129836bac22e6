//! All public services of a broker, as routes that a listener serves.

use alluvium_proto::v1::consume_service_server::ConsumeServiceServer;
use tonic::service::Routes;

use crate::broker::Broker;
use crate::deliver::ConsumeEdge;

/// The routes of the public services. Health and reflection are added by whoever listens.
pub fn routes(broker: &Broker) -> Routes {
    let rpc_bytes_max = broker.limits().rpc_bytes_max();
    Routes::new(
        ConsumeServiceServer::new(ConsumeEdge::new(broker.clone()))
            .max_decoding_message_size(rpc_bytes_max)
            .max_encoding_message_size(rpc_bytes_max),
    )
}
