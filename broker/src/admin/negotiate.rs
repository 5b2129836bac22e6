//! Agreeing on a protocol version.

use alluvium_proto::PROTOCOL_VERSION;
use alluvium_proto::v1;
use alluvium_proto::v1::connect_service_server::ConnectService;
use alluvium_types::fault::{Fault, FaultKind};
use tonic::{Request, Response, Status};

use super::AdminEdge;
use super::fault::Refused;

#[tonic::async_trait]
impl ConnectService for AdminEdge {
    async fn negotiate(&self, request: Request<v1::NegotiateRequest>) -> Result<Response<v1::NegotiateResponse>, Status> {
        Ok(Response::new(self.negotiated(request.into_inner()).await?))
    }
}

impl AdminEdge {
    async fn negotiated(&self, asked: v1::NegotiateRequest) -> Result<v1::NegotiateResponse, Refused> {
        if !(asked.protocol_version_min..=asked.protocol_version_max).contains(&PROTOCOL_VERSION) {
            let message = format!(
                "the client speaks versions {} to {}, this server version {PROTOCOL_VERSION}",
                asked.protocol_version_min, asked.protocol_version_max
            );
            return Err(Fault::new(FaultKind::FailedPrecondition, "PROTOCOL_VERSION", message).into());
        }
        let cluster = self.broker.metadata().clusters().get().await?;
        let limits = self.broker.limits();
        Ok(v1::NegotiateResponse {
            protocol_version: PROTOCOL_VERSION,
            server_version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster_id: cluster.map(|c| c.value.id.to_string()).unwrap_or_default(),
            message_bytes_max: limits.message_bytes_max() as u64,
            batch_bytes_max: limits.batch_bytes_max() as u64,
        })
    }
}
