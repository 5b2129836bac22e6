//! The wire: generated messages and services, conversions to the shared words, and the one map from faults to gRPC codes.
//!
//! Wire types stop at the edge of each server; inside there are domain types only.

pub mod batch;
pub mod convert;
pub mod status;

/// The public services, which any client reaches.
pub mod v1 {
    #![expect(
        missing_docs,
        clippy::all,
        unused_qualifications,
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        reason = "generated; the documentation is in the .proto"
    )]
    tonic::include_proto!("alluvium.v1");
}

/// Between our own processes; on another port.
pub mod internal {
    /// The first version.
    pub mod v1 {
        #![expect(
            missing_docs,
            clippy::all,
            unused_qualifications,
            clippy::allow_attributes,
            clippy::allow_attributes_without_reason,
            reason = "generated; the documentation is in the .proto"
        )]
        tonic::include_proto!("alluvium.internal.v1");
    }
}

/// The descriptors of the public services, for reflection.
pub const PUBLIC_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/public.bin"));

/// The newest protocol version spoken here; also the oldest.
pub const PROTOCOL_VERSION: u32 = 1;
