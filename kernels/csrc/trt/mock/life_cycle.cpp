// Takes one plugin through its life as TensorRT would: created from fields, cloned, asked for shapes, types and formats,
// configured, saved, loaded, run and destroyed; or (--faults) tries what it must refuse, none of which may throw.
//
//     life_cycle LIBRARY CASE [--faults | --short]
//
// With --short the memory of the first output lacks a byte: AddressSanitizer must end the process.
// A case is lines of words: `op NAME`, `ints NAME VALUES`, `floats NAME VALUES`, and in order `input TYPE FILE SIZES` and
// `output TYPE FILE SIZES`; the files of outputs are written.
#include <dlfcn.h>

#include <algorithm>
#include <fstream>
#include <iostream>
#include <map>
#include <optional>
#include <sstream>

#include "interface.h"

namespace mock {
namespace {

const std::map<std::string, std::pair<DataType, size_t>> kTypes = {
    {"f32", {DataType::kFLOAT, 4}}, {"f16", {DataType::kHALF, 2}}, {"i32", {DataType::kINT32, 4}}};
const std::vector<DataType> kForeign = {DataType::kINT8, DataType::kBOOL, DataType::kUINT8};

using Bytes = std::vector<unsigned char>;

struct Data {
    std::string file;
    Bytes bytes;  // as large as the tensor and no larger: AddressSanitizer watches its ends
};

struct Case {
    std::string op;
    Fields fields;
    Descs descs;
    std::vector<Data> inputs, outputs;
};

template <class T>
void add_field(Case& to, std::istream& line, PluginFieldType type) {
    std::string name;
    line >> name;
    std::vector<T> values;
    for (std::string word; line >> word;) values.push_back(static_cast<T>(std::stod(word)));  // reads "-inf" too
    to.fields.add(name, type, values.data(), values.size() * sizeof(T), static_cast<int32_t>(values.size()));
}

void add_tensor(std::vector<PluginTensorDesc>& descs, std::vector<Data>& data, std::istream& line, bool read) {
    std::string type, file;
    line >> type >> file;
    const auto [data_type, bytes] = kTypes.at(type);
    PluginTensorDesc desc = {{0, {}}, data_type, TensorFormat::kLINEAR, 1.f};
    size_t count = bytes;
    for (int64_t size; line >> size; count *= static_cast<size_t>(size)) {
        desc.dims.d[desc.dims.nbDims++] = static_cast<Size>(size);
    }
    Data one = {file, Bytes(count)};
    if (read) {
        std::ifstream from(file, std::ios::binary);
        from.read(reinterpret_cast<char*>(one.bytes.data()), static_cast<std::streamsize>(count));
        must(count == 0 || from.good(), file + " is missing or too short");
    }
    descs.push_back(desc);
    data.push_back(std::move(one));
}

Case read_case(const char* path) {
    std::ifstream from(path);
    Case found;
    for (std::string text; std::getline(from, text);) {
        std::istringstream line(text);
        std::string kind;
        line >> kind;
        if (kind == "op") line >> found.op;
        if (kind == "ints") add_field<int32_t>(found, line, PluginFieldType::kINT32);
        if (kind == "floats") add_field<float>(found, line, PluginFieldType::kFLOAT32);
        if (kind == "input") add_tensor(found.descs.inputs, found.inputs, line, true);
        if (kind == "output") add_tensor(found.descs.outputs, found.outputs, line, false);
    }
    must(!found.op.empty(), std::string(path) + " is no case");
    return found;
}

// Sizes as TensorRT has them while it builds: some known, some only as names.
class Expression final : public IDimensionExpr {
  public:
    explicit Expression(bool known, Size value) : known_(known), value_(value) {}
    bool isConstant() const noexcept override { return known_; }
    Size getConstantValue() const noexcept override { return known_ ? value_ : -1; }
    Size value() const { return value_; }

  private:
    bool known_;
    Size value_;
};

class Builder final : public IExprBuilder {
  public:
    const IDimensionExpr* constant(Size value) noexcept override { return add(true, value); }
    const IDimensionExpr* operation(DimensionOperation op, const IDimensionExpr& a,
                                    const IDimensionExpr& b) noexcept override {
        const Size x = static_cast<const Expression&>(a).value(), y = static_cast<const Expression&>(b).value();
        const Size value = op == DimensionOperation::kPROD       ? x * y
                           : op == DimensionOperation::kCEIL_DIV ? (x + y - 1) / y
                                                                 : -1;
        return add(a.isConstant() && b.isConstant(), value);
    }
    const IDimensionExpr* add(bool known, Size value) {
        made_.push_back(std::make_unique<Expression>(known, value));
        return made_.back().get();
    }

  private:
    std::vector<std::unique_ptr<Expression>> made_;
};

void check_shapes(const Handle& plugin, const Descs& descs, bool known) {
    Builder builder;
    std::vector<DimsExprs> inputs;
    for (const PluginTensorDesc& desc : descs.inputs) {
        DimsExprs dims = {desc.dims.nbDims, {}};
        for (int32_t d = 0; d < desc.dims.nbDims; ++d) dims.d[d] = builder.add(known, desc.dims.d[d]);
        inputs.push_back(dims);
    }
    const std::vector<DimsExprs> found = plugin.dims(inputs, builder);
    must(found.size() == descs.outputs.size(), "number of outputs");
    for (size_t i = 0; i < found.size(); ++i) {
        const Dims& wanted = descs.outputs[i].dims;
        must(found[i].nbDims == wanted.nbDims, "rank of output " + std::to_string(i));
        for (int32_t d = 0; d < wanted.nbDims; ++d) {
            must(static_cast<const Expression*>(found[i].d[d])->value() == wanted.d[d],
                 "size " + std::to_string(d) + " of output " + std::to_string(i));
        }
    }
}

void check_formats(const Handle& plugin, const Descs& descs) {
    std::vector<PluginTensorDesc> all = descs.inputs;
    all.insert(all.end(), descs.outputs.begin(), descs.outputs.end());
    const auto inputs = static_cast<int32_t>(descs.inputs.size());
    for (size_t i = 0; i < all.size(); ++i) {
        const auto position = static_cast<int32_t>(i);
        const PluginTensorDesc right = all[i];
        must(plugin.supports(position, all, inputs), "the format of tensor " + std::to_string(i) + " is refused");
        for (DataType type : kForeign) {
            all[i].type = type;
            must(!plugin.supports(position, all, inputs), "a foreign type of tensor " + std::to_string(i));
        }
        all[i] = right;
        for (TensorFormat format :
             {TensorFormat::kCHW2, TensorFormat::kHWC8, TensorFormat::kCHW4, TensorFormat::kCHW32}) {
            all[i].format = format;
            must(!plugin.supports(position, all, inputs), "a packed format of tensor " + std::to_string(i));
        }
        all[i] = right;
    }
    must(!plugin.supports(static_cast<int32_t>(all.size()) + 7, std::vector<PluginTensorDesc>(all.size() + 8, all[0]),
                          inputs),
         "a tensor that it does not have");
}

int32_t enqueue(const Handle& plugin, Case& one, const Descs& descs) {
    std::vector<const void*> inputs;
    std::vector<void*> outputs;
    for (Data& data : one.inputs) inputs.push_back(data.bytes.data());
    for (Data& data : one.outputs) {
        std::fill(data.bytes.begin(), data.bytes.end(), static_cast<unsigned char>(0xff));
        outputs.push_back(data.bytes.data());
    }
    Bytes workspace(plugin.workspace(one.descs), 0xff);
    return plugin.enqueue(descs, inputs.data(), outputs.data(), workspace.data());
}

void live(const Maker& maker, Case& one) {
    // As the ONNX parser does it: what the creator does not name is not passed.
    std::vector<std::string> known;
    for (int32_t i = 0; i < maker.names()->nbFields; ++i) known.emplace_back(maker.names()->fields[i].name);
    for (const PluginField& field : one.fields.list()) {
        must(std::find(known.begin(), known.end(), field.name) != known.end(), std::string(field.name) + " is unknown");
    }
    const PluginFieldCollection fields = one.fields.collection();
    std::optional<Handle> created(maker.create(&fields));
    must(bool(*created), "createPlugin");
    must(created->name() == one.op, "the plugin's name");
    std::optional<Handle> built(created->clone());
    created.reset();  // a clone stands alone

    std::vector<DataType> types, wanted;
    for (const PluginTensorDesc& desc : one.descs.inputs) types.push_back(desc.type);
    for (const PluginTensorDesc& desc : one.descs.outputs) wanted.push_back(desc.type);
    must(built->types(types) == wanted, "types of outputs");
    check_shapes(*built, one.descs, true);
    check_shapes(*built, one.descs, false);
    check_formats(*built, one.descs);
    must(built->configure(one.descs), "configurePlugin");

    const Saved saved = built->save();
    built.reset();
    const Handle loaded = maker.load(saved);
    must(bool(loaded), "a saved plugin does not load");
    const Handle plugin = loaded.attached();
    must(plugin.configure(one.descs), "configuring for sizes");
    must(enqueue(plugin, one, one.descs) == 0, "enqueue");
    if (plugin.aliased(0) >= 0) {  // the output in the memory of that input
        const Bytes apart = one.outputs[0].bytes;
        const auto input = static_cast<size_t>(plugin.aliased(0));
        std::vector<const void*> inputs;
        for (Data& data : one.inputs) inputs.push_back(data.bytes.data());
        void* output = one.inputs[input].bytes.data();
        must(plugin.enqueue(one.descs, inputs.data(), &output, nullptr) == 0, "enqueue in place");
        must(one.inputs[input].bytes == apart, "in place, the result is another");
    }
    for (const Data& data : one.outputs) {
        std::ofstream to(data.file, std::ios::binary);
        to.write(reinterpret_cast<const char*>(data.bytes.data()), static_cast<std::streamsize>(data.bytes.size()));
    }
}

#if NV_TENSORRT_MAJOR < 10
void refuse_saved(const Maker& maker, const Saved& saved) {
    for (size_t bytes = 0; bytes < saved.size(); ++bytes) {
        must(!maker.load(Saved(saved.begin(), saved.begin() + static_cast<std::ptrdiff_t>(bytes))),
             "a truncated plugin");
    }
    Saved other = saved;
    other.push_back(0);
    must(!maker.load(other), "a plugin with a byte too many");
    other = saved;
    other[0] ^= 1;
    must(!maker.load(other), "a plugin of another version");
    for (size_t i = 4; i < saved.size(); ++i) {  // whatever becomes of a damaged one, it does not crash
        other = saved;
        other[i] ^= 0x80;
        maker.load(other);
    }
}
#else
void refuse_saved(const Maker&, const Saved&) {}
#endif

void refuse(const Maker& maker, Case& one) {
    must(!maker.create(nullptr), "no fields");
    const std::vector<PluginField> right = one.fields.list();
    const auto with = [&](size_t i, PluginField field) {
        std::vector<PluginField> fields = right;
        fields[i] = field;
        const PluginFieldCollection collection = {static_cast<int32_t>(fields.size()), fields.data()};
        return bool(maker.create(&collection));
    };
    for (size_t i = 0; i < right.size(); ++i) {
        const PluginField& field = right[i];
        must(with(i, field), "the right fields are refused");
        must(!with(i, {"no_such_field", field.data, field.type, field.length}), "a field of another name");
        must(!with(i, {nullptr, field.data, field.type, field.length}), "a field without a name");
        must(!with(i, {field.name, field.data, PluginFieldType::kFLOAT64, field.length}), "a field of another type");
        must(!with(i, {field.name, field.data, field.type, 0}), "a field without values");
        must(!with(i, {field.name, nullptr, field.type, field.length}), "a field without data");
        must(!with(i, {field.name, field.data, field.type, -1}), "a field of a negative length");
    }
    const PluginFieldCollection fields = one.fields.collection();
    const Handle plugin = maker.create(&fields);
    refuse_saved(maker, plugin.save());

    const auto refused = [&](auto change, const std::string& what) {
        Descs descs = one.descs;
        change(descs);
        must(enqueue(plugin, one, descs) != 0, what);
        for (const Data& data : one.outputs) {
            for (unsigned char byte : data.bytes) must(byte == 0xff, what + ": something was written");
        }
    };
    refused([](Descs& descs) { descs.outputs[0].dims.d[descs.outputs[0].dims.nbDims - 1] += 1; }, "an output too wide");
    refused([](Descs& descs) { descs.inputs[0].dims.nbDims = 0; }, "an input without dimensions");
    refused([](Descs& descs) { descs.inputs[0].dims.nbDims = 99; }, "an input of 99 dimensions");
    refused([](Descs& descs) { descs.inputs[0].type = DataType::kINT8; }, "an input of another type");
    must(enqueue(plugin, one, one.descs) == 0, "after all that, enqueue");
}

}  // namespace
}  // namespace mock

int main(int count, char** words) {
    try {
        mock::must(count >= 3, "usage: life_cycle LIBRARY CASE [--faults | --short]");
        mock::must(dlopen(words[1], RTLD_NOW | RTLD_LOCAL) != nullptr, "the plugins do not load");
        mock::Case one = mock::read_case(words[2]);
        const mock::Maker maker(one.op);
        const std::string mode = count > 3 ? words[3] : "";
        if (mode == "--short") one.outputs[0].bytes = mock::Bytes(one.outputs[0].bytes.size() - 1);
        mode == "--faults" ? mock::refuse(maker, one) : mock::live(maker, one);
        std::cout << "lived\n";
        return 0;
    } catch (const std::exception& error) {
        std::cout << "died: " << error.what() << "\n";
        return 1;
    }
}
