// Share of the count that is right, for detect: moontune train job.yaml --reward examples/rewards/count_reward.js
function reward(out, gt) {
  const said = out.objects.length, there = gt.boxes.length;
  return 1 - Math.abs(said - there) / Math.max(said, there, 1);
}
