//! Logs and metrics of one process.

mod process;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, Write};
use std::sync::OnceLock;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::{LogConfig, LogFormat};
use crate::redact::Redactor;
use crate::supervisor::Supervisor;

const METRICS_UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Libraries that are never more talkative than this.
const QUIET: [&str; 4] = [
    "bollard=info",
    "hyper=info",
    "hyper_util=info",
    "reqwest=info",
];

/// Seconds; from a cached answer to a slow provision.
const BUCKETS: &[f64] = &[0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0, 600.0];

/// Starts logging to standard error, every line through the redactor. The first
/// call in a process wins; later ones change nothing.
pub(crate) fn init_logs(config: &LogConfig, redactor: &Redactor) {
    let filter = EnvFilter::try_new(&config.filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let filter = match filter.max_level_hint() {
        Some(level) if level <= LevelFilter::INFO => filter,
        // Beyond info these log whole requests, environments of containers included.
        _ => QUIET
            .iter()
            .filter_map(|directive| directive.parse().ok())
            .fold(filter, EnvFilter::add_directive),
    };
    let base = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(RedactingWriter(redactor.clone()));
    // An embedder's own subscriber stays in charge.
    let ours = match config.format {
        LogFormat::Human => base.with_ansi(false).with_target(false).try_init(),
        LogFormat::Json => base
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .try_init(),
    };
    if ours.is_ok() {
        log_panics();
    }
}

/// Sends panics through the log. The default hook writes the message to standard
/// error as it is, and whatever a hook crate panics with may hold a secret.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("no message");
        let location = panic.location().map(ToString::to_string);
        let backtrace = Backtrace::capture();
        let backtrace = (backtrace.status() == BacktraceStatus::Captured).then_some(backtrace);
        tracing::error!(
            location,
            backtrace = backtrace.map(|trace| trace.to_string()),
            "panicked: {message}"
        );
    }));
}

/// The process-wide metrics recorder: the `metrics` crate has one per process,
/// so several servers in one process share it.
pub(crate) fn metrics_handle() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE
        .get_or_init(|| {
            let builder = PrometheusBuilder::new()
                .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), BUCKETS)
                .unwrap_or_else(|_| PrometheusBuilder::new());
            let recorder = builder.build_recorder();
            let handle = recorder.handle();
            // An embedder's own recorder stays in charge; /metrics is then empty.
            let _ = metrics::set_global_recorder(recorder);
            process::describe();
            handle
        })
        .clone()
}

/// Everything measured so far, as Prometheus reads it.
pub(crate) async fn render_metrics() -> String {
    process::measure().await;
    let text = metrics_handle().render();
    // A sum of seconds only grows, but our recorder counts in integers only.
    text.replace(
        "# TYPE molecule_http_request_duration_seconds_total gauge",
        "# TYPE molecule_http_request_duration_seconds_total counter",
    )
}

/// Makes room in the histograms now and then. Samples pile up in the recorder
/// until somebody reads them, and not every server is scraped.
pub(crate) fn keep_metrics_small(supervisor: &Supervisor) {
    supervisor.every("metrics-upkeep", METRICS_UPKEEP_EVERY, || async {
        metrics_handle().run_upkeep();
    });
}

#[derive(Clone)]
struct RedactingWriter(Redactor);

struct Line {
    redactor: Redactor,
    bytes: Vec<u8>,
}

impl<'a> MakeWriter<'a> for RedactingWriter {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line {
            redactor: self.0.clone(),
            bytes: Vec::new(),
        }
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One event is written through one writer; it leaves, whole and masked, when
/// that writer is dropped.
impl Drop for Line {
    fn drop(&mut self) {
        let text = String::from_utf8_lossy(&self.bytes);
        let _ = io::stderr()
            .lock()
            .write_all(self.redactor.redact(&text).as_bytes());
    }
}
