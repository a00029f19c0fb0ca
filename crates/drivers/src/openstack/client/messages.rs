//! What errors say: those of the HTTP client, and those in the bodies of answers.

use nodepool_common::sys::causes::with_causes;
use serde_json::Value;

/// An error of the HTTP client with its causes: the outermost text alone never says why.
pub(crate) fn explain(error: &reqwest::Error) -> String {
    let text = with_causes(error);
    if error.is_timeout() { text.replacen(&error.to_string(), "timed out", 1) } else { text }
}

/// The message in an error's body: `{"forbidden": {"message": …}}`, `{"error": {"message": …}}`, or text.
pub(crate) fn message_of(data: &[u8]) -> String {
    let json: Option<Value> = serde_json::from_slice(data).ok();
    let message = json.as_ref().and_then(Value::as_object).and_then(|map| {
        let inner = map.values().find_map(|value| value.get("message").or_else(|| value.get("detail")));
        inner.or_else(|| map.get("message")).and_then(Value::as_str)
    });
    let text = message.map_or_else(|| String::from_utf8_lossy(data).into_owned(), ToOwned::to_owned);
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.is_empty() { "(no message)".to_owned() } else { text.chars().take(500).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_is_found_in_every_services_errors() {
        for (body, message) in [
            (
                r#"{"forbidden": {"code": 403, "message": "Quota exceeded for instances"}}"#,
                "Quota exceeded for instances",
            ),
            (r#"{"NeutronError": {"type": "OverQuota", "message": "no", "detail": ""}}"#, "no"),
            (r#"{"message": "flat"}"#, "flat"),
            ("<html>\n  gone </html>", "<html> gone </html>"),
            ("", "(no message)"),
        ] {
            assert_eq!(message_of(body.as_bytes()), message);
        }
    }
}
