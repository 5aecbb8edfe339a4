// A reward as a service of one's own, in Node: npm install && node plugin.js 7070
// Scores query by the length of the answer: 1 up to the parameter `words`, less beyond it.
const path = require("path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const protos = path.join(__dirname, "..", "..", "..", "protos");
const definition = loader.loadSync("moontune/api/reward/v1/reward_plugin_service.proto", {
  includeDirs: [protos],
  keepCase: true,
  enums: String,
});
const {reward} = grpc.loadPackageDefinition(definition).moontune.api;

const WORDS = {name: "words", default_value: {number: 3}, description: "words that are free"};
const INFO = {
  name: "short_answer",
  description: "min(1, words / words of the answer)",
  skills: ["SKILL_QUERY"],
  parameters: [WORDS],
  minimum: 0,
  maximum: 1,
};

function result(sample, words) {
  const said = (sample.output.query.answer ?? "").split(/\s+/).filter(Boolean).length;
  return {reward: Math.min(1, words / Math.max(said, 1)), components: {said}, status: "PARSE_STATUS_OK"};
}

const server = new grpc.Server();
server.addService(reward.v1.RewardPluginService.service, {
  DescribeReward: (call, done) => done(null, {info: INFO}),
  ScoreSamples: (call, done) => {
    const words = call.request.parameters?.words?.number ?? WORDS.default_value.number;
    done(null, {results: call.request.samples.map((sample) => result(sample, words))});
  },
});
server.bindAsync(`127.0.0.1:${process.argv[2] ?? 0}`, grpc.ServerCredentials.createInsecure(), (error, port) => {
  if (error) throw error;
  console.log(port);
});
