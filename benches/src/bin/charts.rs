//! Draws charts from the JSON of `cargo xtask bench`: `charts RESULTS FOLDER`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, ensure};
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use serde_json::Value;

const SIZE: (u32, u32) = (860, 480);

/// A line, or a group of bars: a name, and values over what the chart shows them for.
type Series = (String, Vec<(f64, f64)>);

fn main() -> anyhow::Result<()> {
    let [results, folder]: [PathBuf; 2] = std::env::args_os()
        .skip(1)
        .map(PathBuf::from)
        .collect::<Vec<_>>()
        .try_into()
        .map_err(|_| anyhow!("usage: charts RESULTS FOLDER"))?;
    let text = std::fs::read_to_string(&results).with_context(|| results.display().to_string())?;
    let results: Value = serde_json::from_str(&text).context("the results are no JSON")?;
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    for (traffic, title) in [
        ("udp-new", "A request and its answer by UDP, a new flow each"),
        ("tcp-new", "Connect, request, answer by TCP"),
        ("udp-established", "A request and its answer by UDP, one flow"),
        ("tcp-established", "A request and its answer by TCP, one connection"),
    ] {
        let chart = Chart {
            title: &format!("{title}: median"),
            x: "peers of the pod's only policy",
            y: "µs",
            file: &folder.join(format!("{traffic}.svg")),
        };
        chart.lines(&by_peers(&results, traffic)?)?;
    }
    let chart = Chart {
        title: "The program alone, over an empty one (BPF_PROG_TEST_RUN)",
        x: "peers",
        y: "ns",
        file: &folder.join("program.svg"),
    };
    chart.lines(&program(&results)?)?;
    let chart = Chart {
        title: "A change until it is in force: 100 pods, 10 policies each, 100 peers each",
        x: "",
        y: "ms",
        file: &folder.join("changes.svg"),
    };
    let (cases, ways) = changes(&results)?;
    chart.bars(&cases, &ways)
}

fn list<'a>(results: &'a Value, name: &str) -> anyhow::Result<&'a Vec<Value>> {
    results[name].as_array().with_context(|| format!("the results have no list `{name}`"))
}

fn number(result: &Value, field: &str) -> anyhow::Result<f64> {
    result[field].as_f64().with_context(|| format!("no number `{field}` in {result}"))
}

fn text<'a>(result: &'a Value, field: &str) -> anyhow::Result<&'a str> {
    result[field].as_str().with_context(|| format!("no text `{field}` in {result}"))
}

/// Adds a point to the series of its name, which keeps the place where it came first.
fn add(all: &mut Vec<Series>, name: &str, point: (f64, f64)) {
    match all.iter_mut().find(|(known, _)| known == name) {
        Some((_, points)) => points.push(point),
        None => all.push((name.to_owned(), vec![point])),
    }
}

/// The median times of a kind of traffic to one pod with one policy.
fn by_peers(results: &Value, traffic: &str) -> anyhow::Result<Vec<Series>> {
    let mut all = Vec::new();
    for result in list(results, "forwarding")? {
        let is_it = result["traffic"] == traffic && result["quantity"] == "p50";
        if is_it && result["pods"] == 1 && result["policies"] == 1 {
            let point = (number(result, "peers")?, number(result, "value")?);
            add(&mut all, text(result, "config")?, point);
        }
    }
    Ok(all)
}

fn program(results: &Value) -> anyhow::Result<Vec<Series>> {
    let mut all = Vec::new();
    for result in list(results, "datapath")?.iter().filter(|result| result["case"] != "empty") {
        let point = (number(result, "peers")?, number(result, "over_empty")?);
        add(&mut all, text(result, "case")?, point);
    }
    Ok(all)
}

/// The cases, and each way's values by their numbers.
fn changes(results: &Value) -> anyhow::Result<(Vec<String>, Vec<Series>)> {
    let (mut cases, mut numbers) = (Vec::new(), BTreeMap::new());
    let mut ways = Vec::new();
    for result in list(results, "changes")? {
        let case = text(result, "case")?;
        let number_of_case = *numbers.entry(case).or_insert_with(|| {
            cases.push(case.to_owned());
            cases.len() - 1
        });
        add(&mut ways, text(result, "config")?, (number_of_case as f64, number(result, "value")?));
    }
    Ok((cases, ways))
}

struct Chart<'a> {
    title: &'a str,
    x: &'a str,
    y: &'a str,
    file: &'a Path,
}

impl Chart<'_> {
    /// A line for each series, over logarithmic axes.
    fn lines(&self, all: &[Series]) -> anyhow::Result<()> {
        let (xs, ys) = self.bounds(all)?;
        // Room for the legend, which can only be inside.
        let x = xs.start..xs.end * 40.0;
        let y = ys.start / 1.3..ys.end * 1.3;
        self.draw(x.log_scale(), y.log_scale(), |chart| {
            let mut mesh = chart.configure_mesh();
            mesh.x_desc(self.x).y_desc(self.y).light_line_style(WHITE).draw()?;
            for (index, (name, points)) in all.iter().enumerate() {
                let style = Palette99::pick(index).stroke_width(2);
                let dots = points.iter().map(|point| Circle::new(*point, 3, style.filled()));
                chart
                    .draw_series(LineSeries::new(points.iter().copied(), style))?
                    .label(name)
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
                chart.draw_series(dots)?;
            }
            Ok(())
        })
    }

    /// A bar of each series for each case, over a logarithmic axis.
    fn bars(&self, cases: &[String], all: &[Series]) -> anyhow::Result<()> {
        let (_, ys) = self.bounds(all)?;
        let floor = ys.start / 2.0;
        let width = 0.8 / all.len() as f64;
        let label = |x: &f64| {
            let is_whole = (x - x.round()).abs() < 1e-6;
            let case = cases.get(x.round() as usize).filter(|_| is_whole && *x >= 0.0);
            case.cloned().unwrap_or_default()
        };
        let x = RangedCoordf64::from(-0.5..cases.len() as f64 + 0.5);
        self.draw(x, (floor..ys.end * 1.3).log_scale(), |chart| {
            let mut mesh = chart.configure_mesh();
            mesh.disable_x_mesh().light_line_style(WHITE).y_desc(self.y);
            mesh.x_labels(2 * cases.len() + 3).x_label_formatter(&label).draw()?;
            for (index, (name, points)) in all.iter().enumerate() {
                let style = Palette99::pick(index).filled();
                let bars = points.iter().map(|(case, value)| {
                    let left = case - 0.4 + index as f64 * width;
                    Rectangle::new([(left, floor), (left + width * 0.9, *value)], style)
                });
                chart
                    .draw_series(bars)?
                    .label(name)
                    .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 14, y + 5)], style));
            }
            Ok(())
        })
    }

    /// The least and the greatest of either coordinate.
    fn bounds(&self, all: &[Series]) -> anyhow::Result<(Range<f64>, Range<f64>)> {
        let points = || all.iter().flat_map(|(_, points)| points);
        ensure!(points().next().is_some(), "{}: the results have nothing of it", self.title);
        let of = |values: &mut dyn Iterator<Item = f64>| {
            // Logarithmic axes have no zero.
            values.fold(f64::MAX..0.01, |r, v| r.start.min(v.max(0.01))..r.end.max(v))
        };
        Ok((of(&mut points().map(|point| point.0)), of(&mut points().map(|point| point.1))))
    }

    fn draw<X, Y>(
        &self,
        x: X,
        y: Y,
        content: impl FnOnce(&mut Drawing<'_, X, Y>) -> Result<(), Failure>,
    ) -> anyhow::Result<()>
    where
        X: AsRangedCoord<Value = f64>,
        X::CoordDescType: ValueFormatter<f64>,
        Y: AsRangedCoord<Value = f64>,
        Y::CoordDescType: ValueFormatter<f64>,
    {
        let draw = || -> Result<(), Failure> {
            let area = SVGBackend::new(self.file, SIZE).into_drawing_area();
            area.fill(&WHITE)?;
            let mut builder = ChartBuilder::on(&area);
            builder.caption(self.title, ("sans-serif", 18)).margin(12);
            builder.x_label_area_size(42).y_label_area_size(64);
            let mut chart = builder.build_cartesian_2d(x, y)?;
            content(&mut chart)?;
            let mut labels = chart.configure_series_labels();
            labels.position(SeriesLabelPosition::UpperRight);
            labels.draw()?;
            Ok(area.present()?)
        };
        draw().map_err(|error| anyhow!("{}: {error}", self.file.display()))
    }
}

type Failure = Box<dyn std::error::Error>;

type Drawing<'a, X, Y> = ChartContext<
    'a,
    SVGBackend<'a>,
    Cartesian2d<<X as AsRangedCoord>::CoordDescType, <Y as AsRangedCoord>::CoordDescType>,
>;
