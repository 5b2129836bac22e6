//! Connections without a client, and what a refusal carries.

use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use tonic_types::StatusExt;

pub(crate) async fn channel(url: String) -> Channel {
    Endpoint::from_shared(url).expect("a url").connect().await.expect("the port accepts")
}

/// The stable name that a refusal carries, and the field at fault.
pub(crate) fn reason(status: &Status) -> (String, String) {
    let details = status.get_error_details();
    let field = details.bad_request().and_then(|bad| bad.field_violations.first()).map(|violation| violation.field.clone());
    (details.error_info().map(|info| info.reason.clone()).unwrap_or_default(), field.unwrap_or_default())
}

/// A call of this method whose request is these bytes, as a message of `announced` bytes; its status.
pub(crate) async fn raw_call(channel: &Channel, method: &str, announced: u32, request: Vec<u8>) -> Status {
    let mut body = vec![0];
    body.extend(announced.to_be_bytes());
    body.extend(request);
    let request = axum::http::Request::post(format!("http://127.0.0.1{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::new(axum::body::Body::from(body)))
        .expect("a request");
    let mut channel = channel.clone();
    std::future::poll_fn(|cx| tower_service::Service::poll_ready(&mut channel, cx)).await.expect("ready");
    let response = tower_service::Service::call(&mut channel, request).await.expect("answers");
    Status::from_header_map(response.headers()).expect("a status without a body")
}
