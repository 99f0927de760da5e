//! The Prometheus text format, version 0.0.4.
//!
//! Written here, because the numbers are the board's: a metrics library would want to own them,
//! and what it writes (OpenMetrics) names counters in a way that `promtool check metrics` refuses.

use std::fmt::{Display, Write};

use crate::status::histogram::{BOUNDS, Histogram};

/// `Content-Type` of the text.
pub(in crate::admin) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Text under way.
#[derive(Debug, Default)]
pub(super) struct Text(String);

/// A family of which values are to follow.
#[derive(Debug)]
pub(super) struct Family<'a> {
    name: &'static str,
    text: &'a mut String,
}

impl Text {
    pub(super) fn counter(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, "counter", help)
    }

    pub(super) fn gauge(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, "gauge", help)
    }

    fn family(&mut self, name: &'static str, kind: &str, help: &str) -> Family<'_> {
        let text = &mut self.0;
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Family { name, text }
    }

    pub(super) fn histogram(&mut self, name: &'static str, help: &str, histogram: &Histogram) {
        let family = self.family(name, "histogram", help);
        let cumulated = histogram.cumulated();
        for (bound, below) in BOUNDS.iter().zip(cumulated) {
            let bound = micros(*bound);
            let _ = writeln!(family.text, "{name}_bucket{{le=\"{bound}\"}} {below}");
        }
        let all = cumulated[BOUNDS.len()];
        let sum = micros(histogram.sum_micros());
        let _ = writeln!(family.text, "{name}_bucket{{le=\"+Inf\"}} {all}");
        let _ = writeln!(family.text, "{name}_sum {sum}\n{name}_count {all}");
    }

    pub(super) fn finish(self) -> String {
        self.0
    }
}

impl Family<'_> {
    pub(super) fn value(self, value: impl Display) {
        let _ = writeln!(self.text, "{} {value}", self.name);
    }

    /// The value, where there may be none.
    pub(super) fn plain(&mut self, value: impl Display) {
        let _ = writeln!(self.text, "{} {value}", self.name);
    }

    /// The value of two labels.
    pub(super) fn labelled_twice(&mut self, labels: [(&str, &str); 2], value: impl Display) {
        let [(one, of), (other, of_other)] = labels;
        let _ = writeln!(
            self.text,
            "{}{{{one}=\"{}\",{other}=\"{}\"}} {value}",
            self.name,
            escaped(of),
            escaped(of_other)
        );
    }

    /// A value for each of these values of a label, and no others.
    pub(super) fn by<'a>(mut self, label: &str, counts: impl IntoIterator<Item = (&'a str, u64)>) {
        for (of, count) in counts {
            self.labelled(label, of, count);
        }
    }

    /// The value of one label.
    pub(super) fn labelled(&mut self, label: &str, of: &str, value: impl Display) {
        let _ = writeln!(
            self.text,
            "{}{{{label}=\"{}\"}} {value}",
            self.name,
            escaped(of)
        );
    }
}

/// Microseconds in seconds.
#[expect(clippy::cast_precision_loss, reason = "microseconds of centuries fit")]
fn micros(micros: u64) -> f64 {
    micros as f64 / 1e6
}

/// A label's value; most have nothing to escape.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn families_are_written_as_the_format_has_it() {
        let mut text = Text::default();
        text.counter("a_total", "What a is.").value(7);
        text.gauge("b", "What b is.")
            .labelled("x", "say \"\\\n\"", 0.5);
        let histogram = Histogram::default();
        histogram.observe(Duration::from_micros(1_500), 2);
        text.histogram("c_seconds", "What c is.", &histogram);
        let text = text.finish();
        assert!(text.starts_with("# HELP a_total What a is.\n# TYPE a_total counter\na_total 7\n"));
        assert!(
            text.contains("\nb{x=\"say \\\"\\\\\\n\\\"\"} 0.5\n"),
            "{text}"
        );
        assert!(
            text.contains(
                "\nc_seconds_bucket{le=\"0.001\"} 0\nc_seconds_bucket{le=\"0.0025\"} 2\n"
            )
        );
        assert!(text.ends_with(
            "c_seconds_bucket{le=\"+Inf\"} 2\nc_seconds_sum 0.003\nc_seconds_count 2\n"
        ));
    }
}
