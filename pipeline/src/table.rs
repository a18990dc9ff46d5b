//! Plain-text tables for the terminal.

/// Renders a header and its rows; the columns in `left` are aligned left, the others right.
pub fn render<const N: usize>(header: &[&str; N], rows: Vec<[String; N]>, left: &[usize]) -> String {
    let header = header.map(str::to_owned);
    let all = || std::iter::once(&header).chain(&rows);
    let widths: [usize; N] =
        std::array::from_fn(|column| all().map(|row| row[column].chars().count()).max().unwrap_or(0));
    let mut out = String::new();
    for row in all() {
        let cells = row.iter().zip(widths).enumerate().map(|(column, (cell, width))| {
            if left.contains(&column) { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = vec![["a".to_owned(), "1,000".to_owned()], ["bcd".to_owned(), "2".to_owned()]];
        assert_eq!(super::render(&["x", "n"], rows, &[0]), "x        n\na    1,000\nbcd      2\n");
    }
}
