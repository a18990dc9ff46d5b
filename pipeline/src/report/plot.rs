//! Plots as SVG, for a page whose style sheet they share or for a file of their own.

use std::fmt::Write;

use super::escape;

/// One bar of a bar chart.
pub struct Bar {
    /// What it stands for.
    pub label: String,
    /// Its length.
    pub value: f64,
}

const LABEL_WIDTH: f64 = 220.0;
const BAR_WIDTH: f64 = 460.0;
const ROW_HEIGHT: f64 = 22.0;

/// A horizontal bar chart.
pub fn bars(bars: &[Bar]) -> String {
    let largest = bars.iter().map(|bar| bar.value).fold(f64::MIN_POSITIVE, f64::max);
    let height = ROW_HEIGHT * bars.len() as f64;
    let mut svg = format!("<svg viewBox=\"0 0 760 {height}\" width=\"760\" role=\"img\">");
    for (row, bar) in bars.iter().enumerate() {
        let y = row as f64 * ROW_HEIGHT;
        let width = BAR_WIDTH * bar.value / largest;
        // Writing into a string cannot fail.
        let _ = write!(
            svg,
            "<text x=\"{0}\" y=\"{1}\" text-anchor=\"end\">{2}</text>\
             <rect class=\"bar\" x=\"{LABEL_WIDTH}\" y=\"{3}\" width=\"{width:.1}\" height=\"16\"/>\
             <text x=\"{4:.1}\" y=\"{1}\">{5}</text>",
            LABEL_WIDTH - 8.0,
            y + 15.0,
            escape(&bar.label),
            y + 3.0,
            LABEL_WIDTH + width + 6.0,
            bar.value
        );
    }
    svg.push_str("</svg>");
    svg
}

/// A plot as a file: it names its language and brings the style that a page would give it, in colours
/// that a light and a dark page both bear.
pub fn file(svg: &str) -> String {
    const STYLE: &str = "<style>svg{font:12px system-ui,sans-serif;fill:#808080}.bar{fill:#3b82c4}\
                         .curve{fill:none;stroke:#3b82c4;stroke-width:2}.axis{stroke:#8888}</style>";
    let body = svg.replacen("<svg ", "<svg xmlns=\"http://www.w3.org/2000/svg\" ", 1);
    body.replacen('>', &format!(">{STYLE}"), 1)
}

/// A curve with its first and last values written at its ends.
pub fn line(points: &[(f64, f64)]) -> String {
    line_with_dots(points, &[])
}

/// The same with dots on its scale: what was measured beside what was expected.
pub fn line_with_dots(points: &[(f64, f64)], dots: &[(f64, f64)]) -> String {
    const WIDTH: f64 = 640.0;
    const HEIGHT: f64 = 220.0;
    let range = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)))
    };
    let (left, right) = range(&mut points.iter().map(|point| point.0));
    let (low, high) = range(&mut points.iter().map(|point| point.1));
    let x = |value: f64| 50.0 + WIDTH * (value - left) / (right - left).max(f64::MIN_POSITIVE);
    let y = |value: f64| 10.0 + HEIGHT * (high - value) / (high - low).max(f64::MIN_POSITIVE);
    let dots: String = dots
        .iter()
        .map(|&(px, py)| format!("<circle class=\"bar\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\"/>", x(px), y(py)))
        .collect();
    let path: Vec<String> = points.iter().map(|&(px, py)| format!("{:.1},{:.1}", x(px), y(py))).collect();
    format!(
        "<svg viewBox=\"0 0 760 260\" width=\"760\" role=\"img\">\
         <line class=\"axis\" x1=\"50\" y1=\"230\" x2=\"690\" y2=\"230\"/>\
         <line class=\"axis\" x1=\"50\" y1=\"10\" x2=\"50\" y2=\"230\"/>\
         <polyline class=\"curve\" points=\"{}\"/>{dots}\
         <text x=\"44\" y=\"18\" text-anchor=\"end\">{high:.2}</text>\
         <text x=\"44\" y=\"230\" text-anchor=\"end\">{low:.2}</text>\
         <text x=\"50\" y=\"248\">{left}</text><text x=\"690\" y=\"248\" text-anchor=\"end\">{right}</text></svg>",
        path.join(" ")
    )
}

/// A point of a scatter plot.
pub struct Dot {
    /// Its place.
    pub x: f64,
    /// Its place.
    pub y: f64,
    /// Its group, which decides its colour.
    pub group: usize,
}

/// A text on a scatter plot.
pub struct Label {
    /// Its place.
    pub x: f64,
    /// Its place.
    pub y: f64,
    /// What it says.
    pub text: String,
}

/// Points coloured by group, with labels over them.
pub fn scatter(dots: &[Dot], labels: &[Label]) -> String {
    const SIDE: f64 = 640.0;
    const MARGIN: f64 = 60.0;
    let range = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)))
    };
    let (left, right) = range(&mut dots.iter().map(|dot| dot.x));
    let (low, high) = range(&mut dots.iter().map(|dot| dot.y));
    let x = |value: f64| MARGIN + SIDE * (value - left) / (right - left).max(f64::MIN_POSITIVE);
    let y = |value: f64| 20.0 + SIDE * (high - value) / (high - low).max(f64::MIN_POSITIVE);
    let mut svg = String::from("<svg viewBox=\"0 0 760 680\" width=\"760\" role=\"img\">");
    for dot in dots {
        // The golden angle keeps the hues of neighbouring numbers apart.
        let hue = (dot.group as f64 * 137.508) % 360.0;
        let _ = write!(
            svg,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.5\" fill=\"hsl({hue:.0} 65% 50% / 0.6)\"/>",
            x(dot.x),
            y(dot.y)
        );
    }
    for label in labels {
        let _ = write!(
            svg,
            "<text class=\"label\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            x(label.x),
            y(label.y),
            escape(&label.text)
        );
    }
    svg.push_str("</svg>");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped_and_the_largest_bar_is_full() {
        let svg = bars(&[Bar { label: "<a>".into(), value: 2.0 }, Bar { label: "b".into(), value: 4.0 }]);
        assert!(
            svg.contains("&lt;a&gt;") && svg.contains("width=\"230.0\"") && svg.contains("width=\"460.0\"")
        );
    }

    #[test]
    fn dots_on_one_spot_have_finite_places_and_labels_are_escaped() {
        let dot = || Dot { x: 1.0, y: 1.0, group: 3 };
        let svg = scatter(&[dot(), dot()], &[Label { x: 1.0, y: 1.0, text: "<b>".into() }]);
        assert!(!svg.contains("NaN") && svg.contains("&lt;b&gt;"), "{svg}");
        assert_eq!(svg.matches("<circle").count(), 2);
    }

    #[test]
    fn a_flat_curve_has_finite_points() {
        assert!(!line(&[(0.0, 1.0), (1.0, 1.0)]).contains("NaN"));
    }
}
