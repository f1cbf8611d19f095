//! The HTTP shell: CORS, rate limits, headers, the tenant guard, proxies, metrics.

mod bodies;
mod canvas;
mod config;
mod control_plane;
mod cors;
mod guard;
mod headers;
mod limit;
mod metrics;
mod paths;
mod shutdown;
mod upstream;
use molecule_tests::support;
