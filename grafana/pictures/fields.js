// Answers of Prometheus as the data frames that Grafana's panels draw, with what the page says of their fields.
import {
  FieldConfigOptionsRegistry, FieldType, applyFieldOverrides, dataLinksOverrideProcessor, displayNameOverrideProcessor,
  identityOverrideProcessor, numberOverrideProcessor, standardFieldConfigEditorRegistry, standardTransformers,
  standardTransformersRegistry, thresholdsOverrideProcessor, transformDataFrame, valueMappingsOverrideProcessor,
} from "@grafana/data";
import { lastValueFrom } from "rxjs";

const STANDARD = {
  unit: identityOverrideProcessor, min: numberOverrideProcessor, max: numberOverrideProcessor,
  decimals: numberOverrideProcessor, displayName: displayNameOverrideProcessor, color: identityOverrideProcessor,
  noValue: identityOverrideProcessor, links: dataLinksOverrideProcessor, mappings: valueMappingsOverrideProcessor,
  thresholds: thresholdsOverrideProcessor, fieldMinMax: identityOverrideProcessor,
};

const option = (id, path, process, isCustom) => ({
  id, path, isCustom, process, name: id, override: () => null, editor: () => null, settings: {},
  shouldApply: () => true, getItemsCount: () => 0,
});

standardFieldConfigEditorRegistry.setInit(() =>
  Object.entries(STANDARD).map(([id, process]) => option(id, id, process, false)));
standardTransformersRegistry.setInit(() =>
  [...new Map(Object.values(standardTransformers).map((each) => [each.id, each])).values()].map((each) => ({
    id: each.id, name: each.name, transformation: () => Promise.resolve(each), editor: () => null, imageDark: "", imageLight: "",
  })));

const written = (labels) => {
  const { __name__: name = "", ...rest } = labels;
  return `${name}{${Object.entries(rest).map(([key, value]) => `${key}="${value}"`).join(", ")}}`;
};

const legend = (format, labels) =>
  format ? format.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, label) => labels[label] ?? "") : written(labels);

const frame = (refId, fields, name) => ({ refId, name, fields, length: fields[0]?.values.length ?? 0 });

function tabular(target, answer, only) {
  const labels = [...new Set(answer.flatMap((each) => Object.keys(each.metric)))].sort();
  const value = only ? "Value" : `Value #${target.refId}`;
  return frame(target.refId, [
    { name: "Time", type: FieldType.time, config: {}, values: answer.map((each) => each.value[0] * 1000) },
    ...labels.map((label) => ({
      name: label, type: FieldType.string, config: { filterable: true }, values: answer.map((each) => each.metric[label]),
    })),
    { name: value, type: FieldType.number, config: {}, values: answer.map((each) => Number(each.value[1])) },
  ]);
}

function series(target, each, step) {
  const times = [], values = [];
  for (const [time, value] of each.values ?? [each.value]) {
    const before = times[times.length - 1];
    if (before !== undefined && time * 1000 - before > 1500 * step) { // nothing was there: a gap
      times.push(before + 1000 * step);
      values.push(null);
    }
    times.push(time * 1000);
    values.push(Number(value));
  }
  const name = legend(target.legendFormat, each.metric);
  return frame(target.refId, [
    { name: "Time", type: FieldType.time, config: {}, values: times },
    {
      name: "Value", type: FieldType.number, labels: each.metric, config: { displayNameFromDS: name }, values,
    },
  ], name);
}

export async function framesOf(panel, answers, step, theme) {
  const made = panel.targets.flatMap((target, place) => {
    const answer = answers[place];
    if (target.format === "table") {
      return answer.length ? [tabular(target, answer, panel.targets.length === 1)] : [];
    }
    return answer.map((each) => series(target, each, step));
  });
  const transformed = panel.transformations?.length
    ? await lastValueFrom(transformDataFrame(panel.transformations, made)) : made;
  const config = panel.fieldConfig ?? { defaults: {}, overrides: [] };
  if (panel.type === "timeseries") config.defaults.color ??= { mode: "palette-classic" }; // Grafana's default
  const custom = new Set([
    ...Object.keys(config.defaults.custom ?? {}),
    ...config.overrides.flatMap((each) => each.properties.map((property) => property.id))
      .filter((id) => id.startsWith("custom.")).map((id) => id.slice("custom.".length)),
  ]);
  const registry = new FieldConfigOptionsRegistry(() => [
    ...standardFieldConfigEditorRegistry.list(),
    ...[...custom].map((key) => option(`custom.${key}`, key, identityOverrideProcessor, true)),
  ]);
  transformed.flatMap((each) => each.fields.filter((field) => field.type === FieldType.number))
    .forEach((field, seriesIndex) => { field.state = { ...field.state, seriesIndex }; });
  return applyFieldOverrides({
    data: transformed, fieldConfig: config, replaceVariables: (text) => text, theme, timeZone: "utc",
    fieldConfigRegistry: registry,
  });
}
