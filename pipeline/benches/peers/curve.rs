//! The share of near-duplicates that are found, by their similarity, as a drawing.

use std::fmt::Write;

/// What 14 buckets of 8 hashes promise for a pair of this Jaccard similarity.
pub fn promised(similarity: f64) -> f64 {
    1.0 - (1.0 - similarity.powi(8)).powi(14)
}

/// An SVG with the promised curve as a line and the measured shares as dots: (similarity, share).
pub fn svg(measured: &[(f64, f64)]) -> String {
    const SIDE: f64 = 320.0;
    const MARGIN: f64 = 44.0;
    let x = |similarity: f64| MARGIN + similarity * SIDE;
    let y = |share: f64| 12.0 + (1.0 - share) * SIDE;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{0}\" font-family=\"sans-serif\" \
         font-size=\"12\" fill=\"#333\"><rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
        SIDE + 2.0 * MARGIN
    );
    for tenth in (0..=10).step_by(2) {
        let value = f64::from(tenth) / 10.0;
        let _ = writeln!(
            svg,
            "<path d=\"M{0:.0} {1:.0}H{2:.0}M{3:.0} {4:.0}V{5:.0}\" stroke=\"#ddd\"/>\
             <text x=\"{6:.0}\" y=\"{7:.0}\" text-anchor=\"end\">{value}</text>\
             <text x=\"{3:.0}\" y=\"{8:.0}\" text-anchor=\"middle\">{value}</text>",
            x(0.0),
            y(value),
            x(1.0),
            x(value),
            y(0.0),
            y(1.0),
            x(0.0) - 6.0,
            y(value) + 4.0,
            y(0.0) + 16.0,
        );
    }
    let curve: Vec<String> = (0..=100)
        .map(|percent| f64::from(percent) / 100.0)
        .map(|similarity| format!("{:.1},{:.1}", x(similarity), y(promised(similarity))))
        .collect();
    let _ = writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"#888\" stroke-width=\"2\"/>",
        curve.join(" ")
    );
    for (similarity, share) in measured {
        let _ = writeln!(
            svg,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"#0b6\"/>",
            x(*similarity),
            y(*share)
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"middle\">Jaccard similarity; line: 1 − (1 − s⁸)¹⁴, dots: found</text></svg>",
        x(0.5),
        y(0.0) + 36.0
    );
    svg
}
