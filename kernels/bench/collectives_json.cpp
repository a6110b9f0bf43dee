// Samples of the all-reduce alone as a JSON text; native/node-collectives.ts reads it.
#include "collectives.h"
#include "json.h"

namespace kilotoken::bench {

std::string collectives_json(const Collectives& c) {
  Json json;
  // Words of the driver and of NCCL go into texts.
  const auto plain = [](std::string text) {
    for (char& each : text)
      if (each == '"' || each == '\\' || static_cast<unsigned char>(each) < 0x20) each = '\'';
    return text;
  };
  json.begin().number("gpus", c.gpus).string("gpu", plain(c.gpu)).number("hidden", kCollectiveHidden).number("warm", kCollectiveWarm);
  json.number("checkedCalls", kCheckedCalls).list("launches");
  for (const CollectiveLaunch& l : c.launches) {
    json.begin().string("how", l.how).string("arrangement", l.arrangement).number("rows", l.rows).number("launch", l.launch).number("rank", l.rank);
    json.number("spanNs", l.span_ns).number("slowestNs", l.slowest_ns).list("cycles");
    for (const uint32_t cycles : l.cycles) json.number(nullptr, cycles);
    json.end_list().end();
  }
  json.end_list().list("checks");
  for (const CollectiveCheck& check : c.checks) json.begin().string("how", check.how).string("data", check.data).end();
  json.end_list().list("planted");
  for (const PlantedMistake& p : c.planted) json.begin().string("how", p.how).string("mistake", p.mistake).number("seen", p.seen).number("values", p.values).end();
  json.end_list().list("wrong");
  for (const std::string& text : c.wrong) json.string(nullptr, plain(text));
  json.end_list().begin("nccl").string("version", plain(c.nccl.version)).string("lack", plain(c.nccl.lack)).string("graphLack", plain(c.nccl.graph_lack));
  json.number("batch", c.nccl.batch).list("times");
  for (const NcclTimes& t : c.nccl.times) json.begin().string("how", t.how).number("rank", t.rank).numbers("us", t.us).end();
  return json.end_list().end().end().text();
}

}  // namespace kilotoken::bench
