//! What is said of a file that is no YAML: the place of the mistake, and the way out.

use super::{check, check_errors, lines, load, load_errors};

/// Each: a file, and what its only error begins with and has in it.
fn each_is_told(cases: &[(&str, &str, &str)]) {
    for (text, begin, way_out) in cases {
        let errors = check_errors(text);
        assert!(errors.starts_with(begin) && errors.contains(way_out), "{text}\n{errors}");
        assert_eq!(errors.lines().count(), 1, "{text}\n{errors}");
    }
}

#[test]
fn an_indentation_that_fits_nothing_is_compared_with_the_lines_above() {
    each_is_told(&[
        (
            "labels:\n  - name: a\n   min-ready: 5\n",
            "main:3:4: this is not YAML: this key is indented by 3 spaces, and no key above stands there",
            "indent it by 4 spaces, like `name` in line 2, or by 0 spaces, like `labels` in line 1",
        ),
        (
            "labels:\n  - name: a\n    min-ready: 1\n - name: b\n",
            "main:4:2: this is not YAML: this item is indented by 1 space, and no list above has its items there",
            "(indent it by 2 spaces, like the item in line 2)",
        ),
        ("labels:\n- name: a\n  - name: b\n", "main:3:", "(indent it by 0 spaces, like the item in line 2)"),
        ("labels: []\n webapp: {}\n", "main:2:", "(indent it by 0 spaces, like `labels`; or take"),
        ("  labels: []\nwebapp: {}\n", "main:2:1:", "(indent it by 2 spaces, like `labels` in line 1)"),
        (
            "labels:\n  - name: a\n  name: b\n",
            "main:3:3: this is not YAML: line 2 begins a list at this indentation, whose items begin with `- `",
            "(indent it by 4 spaces, like `name` in line 2, or write `- name: …` if an item begins here, or take the dash of line 2 away \
             if that is no list)",
        ),
        (
            "providers:\n  - name: a\n    cloud: b\n      region-name: c\n",
            "main:4:",
            "indented deeper than line 3, where `cloud` has its value already (indent it by 4 spaces, like `cloud`; or take the \
             value of `cloud` away",
        ),
    ]);
}

#[test]
fn a_dash_that_is_missing_or_too_close_is_told() {
    each_is_told(&[
        (
            "labels:\n  -name: a\n    min-ready: 1\n",
            "main:2:3: this is not YAML: a space is missing behind the dash of `-name`",
            "(write `- name`)",
        ),
        ("labels:\n  - name: a\n  -name: b\n", "main:3:3:", "(write `- name`)"),
        (
            "labels:\n  name: a\n    min-ready: 1\n",
            "main:3:",
            "like `name`; or write `- name: …` in line 2 if an item begins there; or take",
        ),
        (
            "labels:\n    name: a\n    min-ready: 1\n  - name: b\n",
            "main:4:3: this is not YAML: an item of a list begins here, but `min-ready` above it, in line 3, is in no item",
            "(begin what stands above with a dash, too)",
        ),
        (
            "labels:\n- name: a\n  x:\n      name: a\n    - name: b\n",
            "main:5:5: this is not YAML: an item of a list begins here, but `name` above it, in line 4, is in no item",
            "",
        ),
        (
            "labels:\n- name: |\n      a\n    b: c\n",
            "main:4:",
            "belongs to the text of `name` in line 2, whose first line is indented deeper (indent all lines of that text alike",
        ),
    ]);
}

#[test]
fn a_colon_too_many_or_too_few_is_told_where_it_is() {
    each_is_told(&[
        (
            "images-dir: a: b\n",
            "main:1:14: this is not YAML: the value of `images-dir` has a colon in it",
            "(put the value in quotes: 'a: b')",
        ),
        ("labels:\n  - name: it's: b\n", "main:2:15:", "'it''s: b'"),
        (
            "labels:\n  - name:a\n    min-ready: 1\n",
            "main:2:5: this is not YAML: a space is missing behind the colon of `name:a`",
            "(write `name: a`)",
        ),
        ("images-dir:/a\nelements-dir: /b\n", "main:1:1:", "(write `images-dir: /a`)"),
        (
            "labels\n  - name: a\n",
            "main:1:1: this is not YAML: `labels` has no colon",
            "write `labels:` if it is a key",
        ),
        ("labels:\n- {name: a}\nwebapp:{port: 1, listen_address: x}\n", "main:3:", "(write `webapp: …`)"),
        ("labels:\n  - name a\n    min-ready: 1\n", "main:2:5:", "write `name: a`"),
        ("labels:\n  - name = a\n    min-ready: 1\n", "main:2:5:", "write `name: a` if"),
        ("labels:\n  - name: a\n    min-ready = 1\n", "main:3:5:", "write `min-ready: 1` if"),
        ("labels:\n  - name: a\nfoo\nwebapp: {}\n", "main:3:1:", "write `foo:` if it is a key"),
    ]);
}

#[test]
fn what_begins_with_a_special_character_belongs_in_quotes() {
    for (value, first) in
        [("@x", '@'), ("`x`", '`'), ("%x", '%'), ("* x", '*'), ("& x", '&'), ("? x", '?'), ("|x", '|')]
    {
        let errors = check_errors(&format!("labels: []\nimages-dir: {value}\n"));
        let begin = format!("main:2:13: this is not YAML: a value cannot begin with `{first}`");
        assert!(errors.starts_with(&begin), "{errors}");
        assert!(errors.contains(&format!("put the value in quotes: '{value}'")), "{errors}");
    }
    each_is_told(&[
        (
            "images-dir: !x y\n",
            "main:1:",
            "begins with `!x`, which YAML takes for a tag that is unknown (put the value in quotes",
        ),
        (
            "x: &common {a: b}\nlabels:\n- <<: *commn\n  name: a\n",
            "main:3:7: this is not YAML: `*commn` stands for what is marked `&commn`, and nothing above is",
            "(did you mean `*common`?)",
        ),
        (
            "images-dir: *x\n",
            "main:1:13:",
            "write `&x` above, before what it stands for; or, if it is a text, put the value in quotes: '*x'",
        ),
    ]);
}

#[test]
fn quotes_and_brackets_that_are_left_open_are_told_where_they_begin() {
    each_is_told(&[
        (
            "images-dir: \"a\nlabels: []\n",
            "main:1:13: this is not YAML: the quote `\"` that begins here is never closed",
            "",
        ),
        (
            "images-dir: \"a\nelements-dir: \"b\"\n",
            "main:1:13: this is not YAML: the quote `\"` that begins here is closed by the one in line 2 only",
            "(write `\"` where the value ends)",
        ),
        ("images-dir: 'it's'\n", "main:1:17:", "is written twice: 'it''s'"),
        ("images-dir: \"C:\\data\"\n", "main:1:13:", "use single quotes, where `\\` is only itself"),
        (
            "diskimages:\n- name: a\n  elements: [vm, ubuntu\n  formats: [raw]\n",
            "main:3:13: this is not YAML: the bracket `[` that begins here is never closed",
            "(write `]` where it ends)",
        ),
        ("labels:\n  - {name: a\n  - name: b\n", "main:2:5:", "the bracket `{` that begins here is never closed"),
        ("webapp: {port: 1 listen_address: x}\n", "main:1:32:", "a comma is missing before this place"),
        ("webapp: {port: 1]}\n", "main:1:9:", "is closed by `]`"),
    ]);
}

#[test]
fn what_no_yaml_is_meant_to_have_is_called_by_its_name() {
    each_is_told(&[
        (
            "labels:\n<<<<<<< HEAD\n  - name: a\n=======\n  - name: b\n>>>>>>> other\n",
            "main:2:1: this is not YAML: this line was left by an unfinished merge",
            "remove the lines that begin with `<<<<<<<`, `=======` and `>>>>>>>`",
        ),
        (
            "images-dir: {{ dir }}\n",
            "main:1:13:",
            "`{{` begins a mark of a template, and for YAML a mapping (put the value",
        ),
        (
            "labels:\n- name: a\nimages-dir: x{{ a }} {{ b: c }}\n",
            "main:3:22: this is not YAML: `{{` begins a mark of a template",
            "",
        ),
        ("{% if x %}\nlabels: []\n{% endif %}\n", "main:1:1:", "this file is a template: fill it in first"),
        (
            "labels: []\n---\nwebapp: {}\n",
            "main:2:1: a second YAML document",
            "(remove the line `---` or `...` before it)",
        ),
    ]);
}

#[test]
fn a_tab_is_told_in_the_line_where_it_stands_with_the_others() {
    each_is_told(&[
        (
            "labels:\n  - name: a\n\t- name: b\n",
            "main:3:1: this is not YAML: a tab stands in the indentation of this line, where only spaces may stand",
            "(write spaces instead)",
        ),
        (
            "labels:\n  - name: a\n\n\n  \tmin-ready: 5\n\tx: y\n",
            "main:5:3:",
            "(write spaces instead; line 6 has one, too)",
        ),
        ("labels:\n\t- name: b\n", "main:2:1:", "a tab stands"),
        ("elements-dir: |\n\ta\n", "main:2:1:", "a tab stands"),
        (
            "webapp:\n  port: 5\t\n  listen_address:\tx\nimages-dir:\t\t/a\n",
            "main:2:10: a tab stands here where only spaces may stand: Python Nodepool cannot read the file",
            "(write spaces instead; lines 3 and 4 have some, too)",
        ),
    ]);
}

#[test]
fn a_character_that_is_not_what_it_looks_like_is_named_with_its_place() {
    each_is_told(&[
        (
            "labels:\n  \u{2013} name: a\n    min-ready: 1\n",
            "main:2:3: this is not YAML: the character U+2013 (EN DASH) stands here, which looks like `-`",
            "(write `-` instead)",
        ),
        (
            "labels:\n\u{2013}\u{a0}name: a\n  min-ready: 1\n",
            "main:2:1: this is not YAML: the character U+2013 (EN DASH)",
            "(write `-` instead; column 2 has U+00A0 (NO-BREAK SPACE), too: write a space instead)",
        ),
        (
            "labels:\n- name: a\n\u{a0} min-ready 1\nwebapp: {}\n",
            "main:3:1: this is not YAML: the character U+00A0 (NO-BREAK SPACE) stands here, which looks like a space",
            "(write a space instead)",
        ),
        (
            "images-dir: \u{201c}a: b\u{201d}\n",
            "main:1:13: this is not YAML: the character U+201C (LEFT DOUBLE QUOTATION MARK)",
            "(write `\"` instead, at both ends, or no quotes)",
        ),
    ]);
    for (text, expected) in [
        ("images-dir: \u{2018}a\u{2019}\n", "main:1:13: the character U+2018 (LEFT SINGLE QUOTATION MARK) stands here"),
        ("images-dir: a\u{200b}\n", "main:1:14: the character U+200B (ZERO WIDTH SPACE) stands here"),
        ("images-dir: \"a\u{feff}\"\n", "main:1:15: the character U+FEFF (BYTE ORDER MARK) stands here"),
        ("images-dir: a\u{2011}b\nelements-dir: c\u{2011}\n", "(write `-` instead; line 2 has one, too)"),
    ] {
        let warnings = check(text);
        assert!(warnings.contains(expected) && warnings.lines().count() == 1, "{text}: {warnings}");
        assert!(lines(&load(text).warnings).contains(expected), "to the daemons it is one, too");
    }
    for fine in [
        "\u{feff}images-dir: a\n",
        "images-dir: a  # \u{201c}b\u{201d} \u{a0}c\n",
        "images-dir: it\u{2019}s \u{2013} b\n",
        "images-dir: '\u{2013} \u{201c}'\n",
        "images-dir: |\n  \u{201c}a\u{201d}\u{a0}\n",
    ] {
        assert_eq!(check(fine), "", "{fine}");
    }
    for (key, words) in [
        (
            "labels\u{200b}",
            "`labels\\u{200b}`, which has the character U+200B (ZERO WIDTH SPACE) in it (write `labels`, typed anew",
        ),
        ("max\u{2013}hold-age", "has the character U+2013 (EN DASH) in it (write `max-hold-age`, typed anew"),
    ] {
        let errors = check_errors(&format!("{key}: 5\n"));
        assert!(errors.contains(words), "{errors}");
    }
}

/// What a daemon says of its configuration is in its log and in `/ready`, which everybody can read.
#[test]
fn a_daemon_repeats_nothing_of_a_file_that_is_no_yaml() {
    for value in ["@s3cret", "%s3cret", "*s3cret", "ab: s3cret", "{s3cret", "'a' s3cret", "\"s3cret"] {
        let text = format!("diskimages:\n- name: d\n  env-vars:\n    PASSWORD: {value}\n");
        let errors = load_errors(&text);
        assert!(!errors.contains("s3cret"), "{errors}");
        assert!(
            errors.contains("this is not YAML") && errors.contains("`nodepool config-validate` says what"),
            "{errors}"
        );
    }
}

#[test]
fn a_variable_in_a_wrong_form_is_named_without_its_value() {
    for wrong in ["A=s3cret", "[A=s3cret]", "[{name: A, value: s3cret}]", "[A: s3cret]", "['A:s3cret']"] {
        let errors = load_errors(&format!("diskimages: [{{name: d, formats: [raw], env-vars: {wrong}}}]\n"));
        assert!(!errors.contains("s3cret") && errors.contains("write `A: …`"), "{errors}");
    }
}

#[test]
fn a_tag_is_told_where_it_begins() {
    each_is_told(&[
        ("images-dir: !x y\n", "main:1:13: the value here begins with `!x`", "put the value in quotes"),
        ("labels: []\nimages-dir: !!int ten\n", "main:2:13: `ten` is no value of the tag `!!int`", "remove the tag"),
        ("labels: !list\n- name: a\n", "main:1:9: the value here begins with `!list`", ""),
        ("webapp: !!seq {port: 5}\n", "main:1:9:", ""),
    ]);
}

#[test]
fn what_an_alias_stands_for_is_told_where_the_alias_stands() {
    let text = "providers:\n- &p {name: p, cloud: c}\n- *p\n";
    let errors = check_errors(text);
    assert!(
        errors.starts_with("main:3:3: provider `p` is defined twice") && errors.contains("(the first is at main:2:6;"),
        "{errors}"
    );
}

#[test]
fn what_is_still_to_be_filled_in_is_told() {
    for (text, expected) in [
        ("images-dir: ${IMAGES}\n", "main:1:13: `${IMAGES}` stays as it is"),
        ("images-dir: \"$IMAGES\"\n", "(write `%(NODEPOOL_IMAGES)` and set that variable)"),
        ("images-dir: $NODEPOOL_IMAGES\n", "(write `%(NODEPOOL_IMAGES)` and set that variable)"),
        ("images-dir: '{{ images }}'\n", "`{{ images }}` looks like a place that is to be filled in"),
        ("images-dir: <your directory>\n", "main:1:13: `<your directory>` looks like a place that is to be filled in"),
    ] {
        let warnings = check(text);
        assert!(warnings.contains(expected) && warnings.lines().count() == 1, "{text}: {warnings}");
        assert!(load(text).warnings.is_empty(), "nothing of it is in a daemon's log");
    }
    assert_eq!(check("images-dir: /a/$B\nelements-dir: a<b>\nbuild-log-dir: |\n  a: $B\n  # c: <d>\n"), "");
    let host = check_errors("zookeeper-servers: [{host: $ZK}]\n");
    assert!(host.contains("`$ZK`, which is neither a host's name nor an address"), "{host}");
}
