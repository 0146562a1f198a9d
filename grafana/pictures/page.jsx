// Draws one page of panels: what Prometheus answered to each of its queries lies in window.PAGE.
import { dateTime, createTheme, getDisplayProcessor, getFieldDisplayName, getFieldDisplayValues, ThemeContext } from "@grafana/data";
import { BarGauge, BigValue, GlobalStyles, PanelChrome, Table, TimeSeries } from "@grafana/ui";
import { createRoot } from "react-dom/client";
import "uplot/dist/uPlot.min.css";
import { framesOf } from "./fields.js";
import { Graph, Heat, States } from "./shapes.jsx";

const COLUMNS = 24, ROW = 30, GAP = 8, PAGE_WIDTH = 1440, MARGIN = 16, HEAD = 84;
const theme = createTheme({ colors: { mode: "dark" } });
const { board, chosen, from, to, step, panels, said } = window.PAGE;

Date.now = () => to * 1000; // "since two minutes" is as of then

const range = { from: dateTime(from * 1000), to: dateTime(to * 1000), raw: { from: "", to: "" } };
const unit = (PAGE_WIDTH - 2 * MARGIN + GAP) / COLUMNS;

function box({ x, y, w, h }) {
  return { left: MARGIN + x * unit, top: HEAD + y * (ROW + GAP), width: w * unit - GAP, height: h * (ROW + GAP) - GAP };
}

function Nothing({ panel }) {
  return <div style={{ opacity: 0.6, display: "grid", placeItems: "center", height: "100%" }}>
    {panel.fieldConfig?.defaults?.noValue ?? "No data"}
  </div>;
}

function values(panel, frames) {
  return getFieldDisplayValues({
    data: frames, theme, fieldConfig: panel.fieldConfig, reduceOptions: panel.options.reduceOptions, timeZone: "utc",
    replaceVariables: (text) => text,
  });
}

function Drawn({ panel, frames, width, height }) {
  switch (panel.type) {
    case "text":
      return <div style={{ padding: 4, whiteSpace: "pre-wrap" }}>{panel.options.content}</div>;
    case "stat": {
      const [{ display }] = values(panel, frames);
      return <BigValue theme={theme} width={width} height={height} value={{ ...display, title: "" }} textMode="value"
        colorMode={panel.options.colorMode} graphMode="none" justifyMode="auto" />;
    }
    case "bargauge": {
      const bars = frames.length ? values(panel, frames) : [];
      if (!bars.length) return <Nothing panel={panel} />;
      const high = Math.min(46, Math.floor(height / bars.length));
      return bars.map(({ display, field }, place) =>
        <BarGauge key={place} theme={theme} width={width} height={high} value={display} field={field} orientation="horizontal"
          displayMode={panel.options.displayMode} showUnfilled={panel.options.showUnfilled} itemSpacing={6}
          display={getDisplayProcessor({ field: { type: "number", config: field }, theme, timeZone: "utc" })} />);
    }
    case "table":
      if (!frames.length || !frames[0].length) return <Nothing panel={panel} />;
      return <Table data={frames[0]} width={width} height={height} timeRange={range} columnMinWidth={60}
        initialSortBy={panel.options?.sortBy} />;
    case "timeseries":
      if (!frames.length) return <Nothing panel={panel} />;
      return <TimeSeries frames={frames} width={width} height={height} timeRange={range} timeZone="utc"
        legend={panel.options.legend} options={{}} />;
    case "state-timeline":
      return frames.length ? <States {...{ frames, width, height, from, to, theme, step }} /> : <Nothing panel={panel} />;
    case "heatmap":
      return frames.length ? <Heat {...{ panel, frames, width, height, from, to, theme, step }} /> : <Nothing panel={panel} />;
    case "nodeGraph":
      return frames.length ? <Graph {...{ frames, width, height, theme }} /> : <Nothing panel={panel} />;
    default:
      throw new Error(`nothing draws a ${panel.type}`);
  }
}

function Shown({ panel, frames }) {
  const place = box(panel.gridPos);
  if (panel.type === "row") {
    return <div style={{ position: "absolute", ...place, fontSize: 16, fontWeight: 500, paddingTop: 4 }}>
      {panel.collapsed ? "\u203a" : "\u2304"} {panel.title}
      {panel.collapsed && <span style={{ opacity: 0.6, fontSize: 12 }}> ({panel.panels.length} panels)</span>}
    </div>;
  }
  return <div style={{ position: "absolute", ...place }} data-panel={panel.title}>
    <PanelChrome width={place.width} height={place.height} title={panel.title}>
      {(width, height) => <Drawn {...{ panel, frames, width, height }} />}
    </PanelChrome>
  </div>;
}

const told = (time) => new Date(time * 1000).toISOString().slice(0, 19).replace("T", " ");

function Page({ drawn }) {
  return <ThemeContext.Provider value={theme}>
    <GlobalStyles />
    <div style={{ color: theme.colors.text.primary, font: `14px ${theme.typography.fontFamily}` }}>
      <div style={{ position: "absolute", left: MARGIN, top: 10, fontSize: 20, fontWeight: 500 }}>{board.title}</div>
      <div style={{ position: "absolute", right: MARGIN, top: 12, opacity: 0.8 }}>{told(from)} to {told(to)} UTC</div>
      <div style={{ position: "absolute", left: 330, top: 17, opacity: 0.6, fontSize: 12 }}>{said}</div>
      <div style={{ position: "absolute", left: MARGIN, top: 44, display: "flex", gap: 8 }}>
        {Object.entries(chosen).map(([name, value]) =>
          <div key={name} style={{ border: `1px solid ${theme.colors.border.medium}`, borderRadius: 2 }}>
            <span style={{ padding: "3px 8px", background: theme.colors.background.secondary }}>{name}</span>
            <span style={{ padding: "3px 8px" }}>{value}</span>
          </div>)}
      </div>
      {drawn.map((each) => <Shown key={each.panel.id} {...each} />)}
    </div>
  </ThemeContext.Provider>;
}

async function main() {
  document.body.style.background = theme.colors.background.canvas;
  const drawn = await Promise.all(panels.map(async ({ panel, answers }) => ({
    panel, frames: panel.targets ? await framesOf(panel, answers, step, theme) : [],
  })));
  createRoot(document.getElementById("page")).render(<Page drawn={drawn} />);
}

main(); // what it throws is in the browser's log
