#![doc = include_str!("../README.md")]

mod address;
mod answer;
mod client;

pub use address::{base_url, endpoint_url, is_loopback, join};
pub use answer::{Answer, one_line};
pub use client::{HttpClient, HttpClientBuilder, MAX_BODY_BYTES};
/// The client below, for its methods, headers and URLs.
pub use reqwest;
