//! Tables for people, on a terminal and in Markdown.

use std::fmt::Write as _;

/// A table: a head and rows of as many cells.
#[derive(Clone, Debug, Default)]
pub struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With these column names.
    #[must_use]
    pub fn new(head: &[&str]) -> Self {
        Self {
            head: head.iter().map(ToString::to_string).collect(),
            rows: Vec::new(),
        }
    }

    /// One more row.
    pub fn row(&mut self, cells: &[&dyn std::fmt::Display]) {
        self.rows
            .push(cells.iter().map(ToString::to_string).collect());
    }

    fn widths(&self) -> Vec<usize> {
        let mut widths: Vec<usize> = self.head.iter().map(|cell| cell.chars().count()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        widths
    }

    /// Aligned columns, two spaces apart, with a rule under the head.
    #[must_use]
    pub fn text(&self) -> String {
        let widths = self.widths();
        let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
        let mut out = String::new();
        for row in [&self.head, &rule].into_iter().chain(&self.rows) {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                // Writing to a String cannot fail.
                let _ = write!(
                    line,
                    "{cell}{}  ",
                    " ".repeat(width.saturating_sub(cell.chars().count()))
                );
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }

    /// A Markdown table.
    #[must_use]
    pub fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let rule = vec!["---".to_owned(); self.head.len()];
        [&self.head, &rule]
            .into_iter()
            .chain(&self.rows)
            .map(|row| line(row))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other() {
        let mut table = Table::new(&["what", "n"]);
        table.row(&[&"ping", &1]);
        table.row(&[&"transfer", &20]);
        assert_eq!(
            table.text(),
            "what      n\n--------  --\nping      1\ntransfer  20\n"
        );
        assert_eq!(
            table.markdown(),
            "| what | n |\n| --- | --- |\n| ping | 1 |\n| transfer | 20 |\n"
        );
    }
}
