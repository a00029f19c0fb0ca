//! [`Subject`]: what can be explained, by the id or the name that people have.

use std::fmt::Write as _;

use crate::model::{ImageName, LabelName, NodeId, ProviderName, RequestId};

/// The kinds of things that can be explained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A node request.
    Request,
    /// A node.
    Node,
    /// What jobs ask for.
    Label,
    /// A diskimage.
    Image,
    /// A provider.
    Provider,
}

impl Kind {
    /// Each of them.
    pub const ALL: [Self; 5] = [Self::Request, Self::Node, Self::Label, Self::Image, Self::Provider];

    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Node => "node",
            Self::Label => "label",
            Self::Image => "image",
            Self::Provider => "provider",
        }
    }

    /// All their words, for people.
    pub fn words() -> String {
        Self::ALL.map(Self::as_str).join(", ")
    }

    /// That of a word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

/// What can be explained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// `<priority>-<sequence>`.
    Request(RequestId),
    /// `<sequence>`.
    Node(NodeId),
    /// A name.
    Label(LabelName),
    /// A name.
    Image(ImageName),
    /// A name.
    Provider(ProviderName),
}

/// Longer than any name that anybody gives.
const LONGEST: usize = 255;

impl Subject {
    /// Of what something may be the id or the name. Digits are a node's id and digits with a dash a request's, unless `kind` says
    /// something else; any other word may be the name of a label, of an image and of a provider, and often is that of two of
    /// them. Empty: nothing that is explained can have it.
    pub fn of(id: &str, kind: Option<Kind>) -> Vec<Self> {
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let is_request = id.split_once('-').is_some_and(|(priority, rest)| is_number(priority) && is_number(rest));
        // The names of images and providers are those of znodes.
        let is_name = !id.is_empty()
            && id.len() <= LONGEST
            && !matches!(id, "." | "..")
            && !id.chars().any(|c| c == '/' || c.is_control());
        let kinds = match kind {
            Some(kind) => vec![kind],
            None if is_request => vec![Kind::Request],
            None if is_number(id) => vec![Kind::Node],
            None => vec![Kind::Label, Kind::Image, Kind::Provider],
        };
        let of_kind = |kind| match kind {
            Kind::Request => is_request.then(|| Self::Request(id.into())),
            Kind::Node => is_number(id).then(|| Self::Node(id.into())),
            Kind::Label => is_name.then(|| Self::Label(id.into())),
            Kind::Image => is_name.then(|| Self::Image(id.into())),
            Kind::Provider => is_name.then(|| Self::Provider(id.into())),
        };
        kinds.into_iter().filter_map(of_kind).collect()
    }

    /// Its kind.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Request(_) => Kind::Request,
            Self::Node(_) => Kind::Node,
            Self::Label(_) => Kind::Label,
            Self::Image(_) => Kind::Image,
            Self::Provider(_) => Kind::Provider,
        }
    }

    /// Its id or name.
    pub fn id(&self) -> &str {
        match self {
            Self::Request(id) => id.as_str(),
            Self::Node(id) => id.as_str(),
            Self::Label(name) => name.as_str(),
            Self::Image(name) => name.as_str(),
            Self::Provider(name) => name.as_str(),
        }
    }

    /// As the part of an address by which a launcher is asked: `label=ubuntu-noble`.
    pub(crate) fn query(&self) -> String {
        format!("{}={}", self.kind().as_str(), encoded(self.id()))
    }
}

/// With `%XX` for all that could mean something else in an address.
pub(crate) fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

/// A part of an address without its `%XX`; `None`: it is no text.
pub fn decoded(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digit = |byte: Option<u8>| char::from(byte?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
            decoded.push(digit(bytes.next())? * 16 + digit(bytes.next())?);
        } else {
            decoded.push(byte);
        }
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_that_of_one_thing_and_a_name_may_be_that_of_several() {
        assert_eq!(Subject::of("300-0000000123", None), [Subject::Request("300-0000000123".into())]);
        assert_eq!(Subject::of("0000000123", None), [Subject::Node("0000000123".into())]);
        let kinds: Vec<_> = Subject::of("ubuntu-noble", None).iter().map(Subject::kind).collect();
        assert_eq!(kinds, [Kind::Label, Kind::Image, Kind::Provider]);
        assert_eq!(Subject::of("ubuntu-noble", Some(Kind::Image)), [Subject::Image("ubuntu-noble".into())]);
        assert_eq!(Subject::of("42", Some(Kind::Label)), [Subject::Label("42".into())], "if somebody names it so");
        assert_eq!(Subject::of("ubuntu-noble", Some(Kind::Node)), []);
    }

    #[test]
    fn what_can_be_no_name_is_none() {
        for other in ["", ".", "..", "../x", "300-0000000123/x", "a\nb", &"x".repeat(300)] {
            assert_eq!(Subject::of(other, None), [], "{other}");
        }
    }

    #[test]
    fn any_name_survives_an_address() {
        for name in ["ubuntu-noble", "a b&c=d?e#f%g+h", "é"] {
            assert_eq!(decoded(&encoded(name)).as_deref(), Some(name));
        }
        assert_eq!(Subject::Label("c++ 20".into()).query(), "label=c%2B%2B%2020");
        for none in ["%", "%4", "%zz", "%ff", "%+1"] {
            assert_eq!(decoded(none), None, "{none}");
        }
    }

    #[test]
    fn each_kind_has_a_word() {
        assert!(Kind::ALL.into_iter().all(|kind| Kind::parse(kind.as_str()) == Some(kind)));
        assert_eq!(Kind::parse("pool"), None);
    }
}
