//! Content negotiation as upstream's `WebOb` does it, by quality: JSON only where it ranks strictly first.
//!
//! Offered are HTML, plain text and JSON in this order; the former two both get plain text. A header that is absent or
//! not well-formed accepts everything, so it gets text. Where nothing offered is acceptable upstream fails with 500;
//! we answer 406.

use axum::http::{HeaderMap, header};

/// What a table is rendered as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Format {
    /// PrettyTable.
    Text,
    /// A list of objects.
    Json,
}

/// The request's `Accept`: several headers are one list.
pub(super) fn header(headers: &HeaderMap) -> Option<String> {
    let values: Vec<_> =
        headers.get_all(header::ACCEPT).iter().map(|v| String::from_utf8_lossy(v.as_bytes())).collect();
    (!values.is_empty()).then(|| values.join(", "))
}

/// The format of an answer; `None`: no format of ours is acceptable.
pub(super) fn negotiate(accept: Option<&str>) -> Option<Format> {
    match best(accept, &["text/html", "text/plain", "application/json"])? {
        2 => Some(Format::Json),
        _ => Some(Format::Text),
    }
}

/// The format of an error's page, which is offered in HTML and JSON and comes as plain text to all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Page {
    Html,
    Json,
    Text,
}

/// The format of an error's page. Unlike everywhere else, no header is as good as an empty one.
pub(super) fn negotiate_page(accept: Option<&str>) -> Page {
    match best(Some(accept.unwrap_or_default()), &["text/html", "application/json"]) {
        Some(0) => Page::Html,
        Some(_) => Page::Json,
        None => Page::Text,
    }
}

/// The offer of the highest quality; the first of equals.
fn best(accept: Option<&str>, offers: &[&str]) -> Option<usize> {
    let Some(ranges) = accept.map_or_else(|| None, ranges) else { return Some(0) };
    let qualities = offers.iter().map(|offer| quality(&ranges, offer));
    let mut best = None;
    for (i, quality) in qualities.enumerate() {
        if quality > best.map_or(0, |(_, q)| q) {
            best = Some((i, quality));
        }
    }
    best.map(|(i, _)| i)
}

/// The quality, in thousandths, that the most specific range gives to an offer; the first of equals; 0: unacceptable.
fn quality(ranges: &[Range], offer: &str) -> u16 {
    let mut found = (0, 0);
    for range in ranges {
        let specificity = range.specificity(offer);
        if specificity > found.0 {
            found = (specificity, range.quality);
        }
    }
    found.1
}

/// One element of the header.
struct Range {
    /// Lower case.
    media: String,
    /// `;level=1` and the like: then it matches nothing that we offer.
    has_parameters: bool,
    /// In thousandths.
    quality: u16,
}

impl Range {
    /// How closely it matches; 0: not at all.
    fn specificity(&self, offer: &str) -> u8 {
        if self.media == "*/*" {
            1
        } else if self.has_parameters {
            0
        } else if self.media == offer {
            3
        } else if self.media.strip_suffix('*').is_some_and(|kind| kind.ends_with('/') && offer.starts_with(kind)) {
            2
        } else {
            0
        }
    }
}

/// All elements; `None` where one of them is not well-formed (RFC 7231, 5.3.2).
fn ranges(accept: &str) -> Option<Vec<Range>> {
    accept.split(',').map(|e| e.trim_matches([' ', '\t'])).filter(|e| !e.is_empty()).map(range).collect()
}

fn range(element: &str) -> Option<Range> {
    let mut parts = element.split(';').map(|part| part.trim_matches([' ', '\t']));
    let media = parts.next()?.to_ascii_lowercase();
    let (kind, subtype) = media.split_once('/')?;
    if !is_token(kind) || !is_token(subtype) || (kind == "*" && subtype != "*") {
        return None;
    }
    let mut range = Range { media, has_parameters: false, quality: 1000 };
    for part in parts {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        if name.eq_ignore_ascii_case("q") {
            range.quality = thousandths(value)?;
            // What follows belongs to the header, not to the media type.
            break;
        }
        if !is_token(name) {
            return None;
        }
        range.has_parameters = true;
    }
    Some(range)
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c))
}

/// `0`, `0.5`, `1.000`: at most three digits, no more than 1.
fn thousandths(text: &str) -> Option<u16> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole: u16 = match whole {
        "0" => 0,
        "1" => 1000,
        _ => return None,
    };
    if fraction.len() > 3 || !fraction.chars().all(|c| c.is_ascii_digit()) {
        return None;
    }
    let total = whole + format!("{fraction:0<3}").parse::<u16>().ok()?;
    (total <= 1000).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each expectation is the answer of nodepool 11.0.0's own code (`WebOb` 1.8); `None` is its 500.
    #[test]
    fn headers_are_understood_as_upstream_understands_them() {
        use Format::{Json, Text};
        for (accept, expected) in [
            (None, Some(Text)),
            (Some(""), None),
            (Some(", ,"), None),
            (Some("*/*"), Some(Text)),
            (Some("application/json"), Some(Json)),
            (Some("Application/JSON"), Some(Json)),
            (Some("application/*"), Some(Json)),
            (Some("application/json, text/plain, */*"), Some(Text)),
            (Some("application/json, text/plain;q=0.9"), Some(Json)),
            (Some("application/json ; q=0.5 , text/html;q=0.4"), Some(Json)),
            (Some("text/*;q=0.5, application/json;q=0.5"), Some(Text)),
            (Some("text/*, application/json;q=0"), Some(Text)),
            (Some("*/*;q=0.5, application/json"), Some(Json)),
            (Some("text/*;q=0.3, */*;q=0.7"), Some(Json)),
            (Some("text/plain;q=0, text/html;q=0, */*"), Some(Json)),
            (Some("application/json;Q=0.1, text/plain;q=0.2"), Some(Text)),
            (Some("text/plain;q=0.4,text/plain;q=0.8,application/json;q=0.6"), Some(Json)),
            (Some("application/json;q=0.8,application/json;q=0.2,text/plain;q=0.5"), Some(Json)),
            (Some("application/json;q=0.5;ext=1"), Some(Json)),
            (Some("text/html;level=1, application/json;q=0.1"), Some(Json)),
            (Some("application/json;version=1"), None),
            (Some("application/xml"), None),
            (Some("text/*;q=0"), None),
            (Some("*/*;q=0"), None),
            // Not well-formed.
            (Some("not a header"), Some(Text)),
            (Some("*"), Some(Text)),
            (Some("application/json;q=2"), Some(Text)),
            (Some("application/json;q=.5"), Some(Text)),
            (Some("application/json;q=1.0000"), Some(Text)),
            (Some("text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2"), Some(Text)),
        ] {
            assert_eq!(negotiate(accept), expected, "{accept:?}");
        }
    }

    #[test]
    fn error_pages_are_html_for_browsers_and_text_for_those_who_say_nothing() {
        for (accept, expected) in [
            (None, Page::Text),
            (Some("text/plain"), Page::Text),
            (Some("*/*"), Page::Html),
            (Some("not a header"), Page::Html),
            (Some("application/json"), Page::Json),
            (Some("text/plain, application/json;q=0.5"), Page::Json),
        ] {
            assert_eq!(negotiate_page(accept), expected, "{accept:?}");
        }
    }
}
