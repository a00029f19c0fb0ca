//! tracing's events (and the `log` crate's records) as Python log records.

use std::{
    error::Error,
    fmt::{self, Write as _},
    sync::Arc,
};

use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};
use tracing_subscriber::{
    layer::{Context, Layer},
    registry::LookupSpan,
};

use super::{
    super::{causes::with_causes, clock::local_now},
    record::{Annotations, Level, Record},
    router::{Router, is_ours, logger_of},
};

/// The layer that turns events into records.
#[derive(Debug)]
pub struct PythonLayer {
    router: Arc<Router>,
    lowest: Level,
}

impl PythonLayer {
    /// One that hands its records to a router.
    pub fn new(router: Arc<Router>) -> Self {
        let lowest = router.lowest_of_ours();
        Self { router, lowest }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for PythonLayer {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        let logger = logger_of(metadata.target());
        // Whoever names its logger is ours, in whatever crate: a binary, a test.
        if is_ours(&logger) || metadata.fields().field("logger").is_some() {
            // Spans carry the ids of warnings inside them, whatever their own level. And an event's logger may be one
            // of its fields: its exact level is asked for in on_event.
            metadata.is_span() || Level::from(metadata.level()) >= self.lowest
        } else {
            Level::from(metadata.level()) >= self.router.level_of(&logger)
        }
    }

    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        span.extensions_mut().insert(fields.annotations);
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        values.record(&mut fields);
        let mut extensions = span.extensions_mut();
        if let Some(earlier) = extensions.get_mut::<Annotations>() {
            fields.annotations.fill_from(earlier);
            *earlier = fields.annotations;
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let metadata = event.metadata();
        let mut fields = Fields::default();
        event.record(&mut fields);
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(outer) = span.extensions().get::<Annotations>() {
                fields.annotations.fill_from(outer);
            }
        }
        let logger = fields.annotations.logger.clone().unwrap_or_else(|| logger_of(metadata.target()));
        let record = Record {
            created: local_now(),
            level: metadata.level().into(),
            logger,
            message: fields.message(),
            annotations: fields.annotations,
            fields: fields.others,
            pathname: metadata.file().unwrap_or_default().to_owned(),
            lineno: metadata.line().unwrap_or_default(),
            module: metadata.module_path().unwrap_or_default().to_owned(),
        };
        self.router.log(&record);
    }
}

/// Brings the records of crates that use `log` (russh, reqwest) to the same handlers.
#[derive(Debug)]
pub struct LogBridge(pub Arc<Router>);

impl log::Log for LogBridge {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        Level::from(metadata.level()) >= self.0.level_of(&logger_of(metadata.target()))
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            self.0.log(&Record {
                created: local_now(),
                level: record.level().into(),
                logger: logger_of(record.target()),
                message: record.args().to_string(),
                annotations: Annotations::default(),
                fields: Vec::new(),
                pathname: record.file().unwrap_or_default().to_owned(),
                lineno: record.line().unwrap_or_default(),
                module: record.module_path().unwrap_or_default().to_owned(),
            });
        }
    }

    fn flush(&self) {}
}

/// The fields of an event or span.
#[derive(Default)]
struct Fields {
    message: String,
    annotations: Annotations,
    others: Vec<(&'static str, String)>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: String) {
        let id = match field.name() {
            "message" => {
                self.message = value;
                return;
            }
            "event_id" => &mut self.annotations.event_id,
            "request" | "node_request" => &mut self.annotations.node_request,
            "node" => &mut self.annotations.node,
            "logger" => &mut self.annotations.logger,
            other => {
                self.others.push((other, value));
                return;
            }
        };
        *id = (!value.is_empty()).then_some(value);
    }

    /// Annotations, message, other fields. Values with blanks are quoted; texts of several lines keep them.
    fn message(&self) -> String {
        let mut text = self.annotations.prefix() + &self.message;
        for (name, value) in &self.others {
            let quote = value.is_empty() || (value.contains([' ', '\t', '"']) && !value.contains('\n'));
            if !text.is_empty() {
                text.push(' ');
            }
            let _ = if quote { write!(text, "{name}={value:?}") } else { write!(text, "{name}={value}") };
        }
        text
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.put(field, with_causes(value));
    }
}
