//! Producers, consumers and readers for Rust applications.
//!
//! ```no_run
//! use alluvium_client::{Client, Message, Start};
//!
//! # async fn example() -> Result<(), alluvium_client::Error> {
//! let client = Client::connect("http://127.0.0.1:7650").await?;
//!
//! let producer = client.producer("public/default/orders").name("ingest").build().await?;
//! let receipt = producer.send(Message::new("hello").key("k")).await?;
//! println!("stored at {:?}", receipt.id());
//!
//! let mut consumer =
//!     client.consumer("public/default/orders").subscription("billing").start(Start::Earliest).build().await?;
//! while let Some(delivery) = consumer.next().await {
//!     let delivery = delivery?;
//!     consumer.ack(&delivery).await?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Batching, backpressure by bytes, reconnecting and resuming need no setting. Read in this order: [`Client`],
//! [`Producer`], [`Consumer`], [`Reader`], [`Error`].

pub mod admin;
mod client;
mod connection;
mod consumer;
mod error;
mod inbox;
mod message;
mod producer;
mod reader;

pub use alluvium_proto::status::RemoteFault;
pub use alluvium_types::batch::Codec;
pub use alluvium_types::fault::FaultKind;
pub use client::{Client, ClientBuilder, QUEUED_BYTES_MAX};
pub use consumer::{Acker, Consumer, ConsumerBuilder};
pub use error::Error;
pub use message::{Delivery, Message, MessageId, Receipt, Start};
pub use producer::{Guarantee, History, Pending, Producer, ProducerBuilder};
pub use reader::{Reader, ReaderBuilder};
