// The library is CommonJS, whose default export the bundler does not give to modules of Grafana's.
export { Scrollbars as default } from "./node_modules/react-custom-scrollbars-2/lib/index.js";
