// Panels that Grafana's UI library does not have: state timelines, heatmaps and node graphs, drawn after Grafana's own.
import { getDisplayProcessor, getFieldDisplayName } from "@grafana/data";

const AXIS = 18;

const clock = (time) => new Date(time * 1000).toISOString().slice(11, 19);

function Times({ from, to, left, width, top, color }) {
  const marks = (width > 260 ? [0.08, 0.36, 0.64, 0.92] : [0.2, 0.8]).map((share) => from + share * (to - from));
  return marks.map((time) =>
    <text key={time} x={left + width * (time - from) / (to - from)} y={top} fill={color} fontSize="11" textAnchor="middle">
      {clock(time)}
    </text>);
}

export function States({ frames, width, height, from, to, theme, step }) {
  const shown = frames.slice(0, 20), row = (height - AXIS) / shown.length;
  const left = Math.min(330, 0.45 * width), letters = Math.floor((left - 12) / 6.2);
  const at = (time) => left + (width - left) * (time / 1000 - from) / (to - from);
  return <svg width={width} height={height}>
    {shown.map((frame, place) => {
      const [times, field] = frame.fields, name = getFieldDisplayName(field, frame, frames);
      const display = field.display ?? getDisplayProcessor({ field, theme });
      return <g key={place}>
        <text x={left - 8} y={row * (place + 0.5) + 4} textAnchor="end" fontSize="11" fill={theme.colors.text.secondary}>
          {name.length > letters ? `\u2026${name.slice(1 - letters)}` : name}
        </text>
        {times.values.map((time, number) => field.values[number] === null ? null :
          <rect key={number} x={at(time)} width={at(time + 1000 * step) - at(time) + 0.5} y={row * (place + 0.1)}
            height={row * 0.8} fill={display(field.values[number]).color} opacity="0.8" />)}
      </g>;
    })}
    <Times {...{ from, to, left, width: width - left, top: height - 4, color: theme.colors.text.secondary }} />
  </svg>;
}

export function Heat({ panel, frames, width, height, from, to, theme, step }) {
  const bound = (le) => le === "+Inf" ? Infinity : Number(le);
  const bounds = frames.map((frame, place) => [bound(frame.fields[1].labels.le), place]);
  bounds.sort(([one], [other]) => one - other);
  const columns = new Map();
  for (const [rank, [, place]] of bounds.entries()) {
    const [times, field] = frames[place].fields;
    times.values.forEach((time, number) => {
      const column = columns.get(time) ?? columns.set(time, []).get(time);
      column[rank] = field.values[number] ?? 0;
    });
  }
  const cells = [...columns].flatMap(([time, cumulative]) =>
    cumulative.map((value, rank) => [time, rank, value - (rank ? cumulative[rank - 1] ?? 0 : 0)]));
  const full = cells.filter(([, , count]) => count > 1e-9);
  if (!full.length) return null;
  const most = Math.max(...full.map(([, , count]) => count));
  const low = Math.min(...full.map(([, rank]) => rank)), high = Math.max(...full.map(([, rank]) => rank));
  const left = 60, row = (height - AXIS) / (high - low + 1);
  const display = getDisplayProcessor({ field: { type: "number", config: { unit: panel.options.yAxis.unit } }, theme });
  const at = (time) => left + (width - left) * (time / 1000 - from) / (to - from);
  return <svg width={width} height={height}>
    {full.map(([time, rank, count]) =>
      <rect key={`${time} ${rank}`} x={at(time)} width={Math.max(1, at(time + 1000 * step) - at(time))}
        y={(high - rank) * row} height={row - 1} fill={`hsl(${(1 - (count / most) ** 0.4) * 220}, 75%, 55%)`} />)}
    {bounds.slice(low, high + 1).filter((_, place) => row > 11 || place % Math.ceil(11 / row) === 0).map(([le]) => {
      const rank = bounds.findIndex(([each]) => each === le), { text, suffix } = display(le);
      return <text key={le} x={left - 6} y={(high - rank + 0.5) * row + 4} fontSize="11" textAnchor="end"
        fill={theme.colors.text.secondary}>{Number.isFinite(le) ? `${text}${suffix ?? ""}` : "more"}</text>;
    })}
    <Times {...{ from, to, left, width: width - left, top: height - 4, color: theme.colors.text.secondary }} />
  </svg>;
}

// The node graph's contract: one frame with id, title, and colours of arcs; one with id, source, target and colour.
export function Graph({ frames, width, height, theme }) {
  const column = (frame, name) => frame.fields.find((field) => field.name === name)?.values ?? [];
  const edges = frames.find((frame) => column(frame, "source").length);
  const nodes = frames.find((frame) => frame !== edges);
  if (!nodes || !edges) throw new Error("a node graph needs a frame of nodes and one of edges");
  const ids = [...column(nodes, "id")].sort((one, other) => one.localeCompare(other, "en", { numeric: true }));
  const below = new Map(column(nodes, "id").map((id, place) => [id, column(nodes, "subtitle")[place]]));
  const middle = [width / 2, height / 2], radius = [width / 2 - 90, height / 2 - 34];
  const places = new Map(ids.map((id, place) => {
    const angle = 2 * Math.PI * place / ids.length - Math.PI / 2;
    return [id, [middle[0] + radius[0] * Math.cos(angle), middle[1] + radius[1] * Math.sin(angle)]];
  }));
  const colours = column(edges, "color");
  return <svg width={width} height={height}>
    {column(edges, "source").map((source, place) => {
      const [x1, y1] = places.get(source), [x2, y2] = places.get(column(edges, "target")[place]);
      const hurts = colours[place] !== "green";
      return <line key={place} {...{ x1, y1, x2, y2 }} strokeWidth={hurts ? 2 : 1} opacity={hurts ? 1 : 0.35}
        stroke={theme.visualization.getColorByName(colours[place])} />;
    })}
    {[...places].map(([id, [x, y]]) => <g key={id}>
      <circle cx={x} cy={y} r="9" fill={theme.colors.background.primary} stroke={theme.colors.text.primary} />
      <text x={x} y={y + 22} fontSize="11" textAnchor="middle" fill={theme.colors.text.primary}>{id}</text>
      <text x={x} y={y + 35} fontSize="10" textAnchor="middle" fill={theme.colors.text.secondary}>{below.get(id)}</text>
    </g>)}
  </svg>;
}
