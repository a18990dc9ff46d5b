//! Traces, sent by OTLP over HTTP to a collector that the variables of OpenTelemetry name. A queue of fixed
//! length and a thread of its own stand between: a collector that is slow or gone loses spans, and nothing
//! else.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use opentelemetry::trace::TracerProvider;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use service::trace::TARGET;
use tokio::runtime::Runtime;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::{Layer, Registry};

const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
const PROTOCOLS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
const TIMEOUTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"];

/// A collector that does not answer in this time has lost the spans, unless a variable says otherwise.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the program's end may wait for the last spans.
const LAST_PATIENCE: Duration = Duration::from_secs(2);

/// What sends spans.
pub(super) struct Traces {
    provider: SdkTracerProvider,
    runtime: Runtime,
}

impl Traces {
    /// As the variables of OpenTelemetry say; none where they name no collector.
    pub(super) fn from_environment() -> Option<Result<Self, String>> {
        let is = |variable: &str, value: &str| {
            std::env::var(variable).is_ok_and(|found| found.trim().eq_ignore_ascii_case(value))
        };
        let endpoint = first(&ENDPOINTS)?;
        if is("OTEL_SDK_DISABLED", "true") || is("OTEL_TRACES_EXPORTER", "none") {
            return None;
        }
        Some(Self::new(&endpoint))
    }

    fn new(endpoint: &str) -> Result<Self, String> {
        if let Some(protocol) = first(&PROTOCOLS).filter(|protocol| protocol != "http/protobuf") {
            return Err(format!("{} is {protocol}; only http/protobuf is spoken here", PROTOCOLS[1]));
        }
        let url =
            url::Url::parse(endpoint).map_err(|error| format!("{} is no URL: {error}", ENDPOINTS[1]))?;
        let patience =
            first(&TIMEOUTS).and_then(|text| text.parse().ok()).map_or(PATIENCE, Duration::from_millis);
        let client = net::client_for(&url).map_err(|error| error.to_string())?;
        let client = client.timeout(patience).connect_timeout(patience).build();
        let client = client.map_err(|error| error.to_string())?;
        // The queue's thread knows no runtime.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("traces")
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        let http = Http { client, runtime: runtime.handle().clone(), failed: AtomicBool::new(false) };
        let exporter =
            SpanExporter::builder().with_http().with_timeout(patience).with_http_client(http).build();
        let exporter = exporter.map_err(|error| error.to_string())?;
        let named = std::env::var("OTEL_SERVICE_NAME").is_ok_and(|name| !name.is_empty())
            || std::env::var("OTEL_RESOURCE_ATTRIBUTES").is_ok_and(|all| all.contains("service.name="));
        let mut resource = Resource::builder()
            .with_attribute(opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
        if !named {
            resource = resource.with_service_name("corpusmith");
        }
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource.build())
            .build();
        Ok(Self { provider, runtime })
    }

    /// What turns spans of the program into those of a trace. Events are left to the log.
    pub(super) fn layer(&self) -> Box<dyn Layer<Registry> + Send + Sync> {
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer("corpusmith"))
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_target(false)
            .with_filter(filter_fn(|metadata| metadata.is_span() && metadata.target() == TARGET))
            .boxed()
    }

    /// Sends what is left.
    pub(super) fn end(self) {
        if let Err(error) = self.provider.shutdown_with_timeout(LAST_PATIENCE) {
            tracing::debug!(%error, "the last spans are lost");
        }
        self.runtime.shutdown_background();
    }
}

fn first(variables: &[&str]) -> Option<String> {
    let mut values = variables.iter().filter_map(|variable| std::env::var(variable).ok());
    values.find(|value| !value.trim().is_empty()).map(|value| value.trim().to_owned())
}

/// The guarded client, as the exporter wants it.
#[derive(Debug)]
struct Http {
    client: reqwest::Client,
    runtime: tokio::runtime::Handle,
    /// Whether it was said that spans are lost.
    failed: AtomicBool,
}

#[async_trait]
impl HttpClient for Http {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (client, request) = (self.client.clone(), reqwest::Request::try_from(request)?);
        let sent = self.runtime.spawn(async move {
            let answer = client.execute(request).await?;
            let status = answer.status();
            Ok::<_, reqwest::Error>((status, answer.bytes().await?))
        });
        let result = sent.await?;
        let problem = match &result {
            Ok((status, _)) if status.is_success() => None,
            Ok((status, _)) => Some(format!("it answers {status}")),
            Err(error) => Some(crate::runner::error::chain(error)),
        };
        if let Some(problem) = problem
            && !self.failed.swap(true, Ordering::Relaxed)
        {
            tracing::warn!("the collector of traces does not take them: {problem}; this is said once");
        }
        let (status, body) = result.map_err(reqwest::Error::without_url)?;
        let mut response = Response::new(body);
        *response.status_mut() = status;
        Ok(response)
    }
}
