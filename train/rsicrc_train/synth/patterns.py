"""Caption patterns of five annotators for each kind of change.

The first pattern has no choices: this annotator's caption is determined by the facts. [a|b] is a random choice.
{place} and {ground} are the standard phrases, {near} and {land} random synonyms; {count} is an exact number word,
{some} an approximate one; {roof} and {beside} are often empty.
"""

PATTERNS: dict[str, tuple[str, str, str, str, str]] = {
    "house": (
        "a house is built {ground} {place}",
        "[a house appears {place}|there is a house {place}|a house shows up {place}|a house {place} {roof} appears]",
        "[a house|a small house|one house] [has been built|is constructed|appears|is newly built] {ground} {beside}",
        "a [house|villa] [shows up|is constructed|has been built] {land} {near}",
        "[a new house|one house|a residential house] {roof} [appears|is built|has appeared] [{near}|{land}|{beside}]",
    ),
    "houses": (
        "{count} houses are built {ground} {place}",
        "[{count} houses appear {place}|there are {count} new houses {place}|{some} houses show up {place}|"
        "{place} {count} houses appear]",
        "{count} [houses|small houses|villas|new houses] [have been built|are constructed|appear|"
        "are newly built] {ground} {beside}",
        "{some} [houses|villas] [show up|are constructed|have been built] {land} {near}",
        "{some} [new houses|residential houses|houses] [appear|are built|have been added] [{near}|{land}|{beside}]",
    ),
    "building": (
        "a large building is built {ground} {place}",
        "[a large building appears {place}|there is a new large building {place}|"
        "a big building shows up {place}|a large building {roof} appears {place}]",
        "a [large building|big building|huge building] {roof} [has been built|is constructed|"
        "appears] {ground} {beside}",
        "a [building|large building] [shows up|is constructed|has been built] {land} {near}",
        "[a new building|a huge building|one large building] [appears|is erected] [{near}|{land}]",
    ),
    "parking": (
        "a parking lot is built {ground} {place}",
        "[a parking lot appears {place}|there is a parking lot {place}|a parking area shows up {place}|"
        "a new parking lot is added {place}]",
        "a [parking lot|large parking lot] [has been built|is constructed|appears] {ground}",
        "a parking lot [shows up|is constructed|has been built] {land} {near}",
        "[a new parking lot|a parking lot with cars] [appears|is built] [{near}|{land}]",
    ),
    "pond": (
        "a pond appears {ground} {place}",
        "[a pond appears {place}|there is a pond {place}|a pool is formed {place}|water appears {place}]",
        "a [pond|small pond|lake] [is formed|appears|shows up] {ground}",
        "a [pond|pool] [shows up|has appeared] {land} {near}",
        "[a new pond|one pond|a small lake] [appears|has appeared] [{near}|{land}]",
    ),
    "row": (
        "a row of houses is built along the road {ground} {place}",
        "[a row of houses appears along the road {place}|there is a row of houses {place}|"
        "a line of villas shows up beside the road {place}]",
        "[a row of houses is built|many houses are built|houses are constructed] along the road {ground}",
        "[many|several] [houses|villas] [appear|are constructed|have been built] along the road {near}",
        "[a row of villas|a line of houses|a row of new houses] [appears|shows up] [beside|along] the road {near}",
    ),
    "rows": (
        "many houses are built on both sides of the road {ground}",
        "[many houses appear on both sides of the road|there are many houses along the road|"
        "rows of houses show up {ground}]",
        "[many|massive] houses [are constructed|have been built|appear] on both sides of the road {ground}",
        "[two rows of houses|rows of houses|many villas] [appear|are built] on both sides of the road {land}",
        "[many|massive|lots of] [houses|villas] are [neatly arranged|built|constructed] along the road {land}",
    ),
    "road": (
        "a {way} road is built {ground} {place}",
        "[a road appears {place}|there is a new road {place}|a path shows up {place}|{place} a road is constructed]",
        "a [{way} road|road] [has been built|is constructed|appears] {ground}",
        "a [straight road|road] [shows up|is constructed|has been built] {land} {near}",
        "[a new road|a straight road|a {way} road] [appears|is built|runs] [{near}|{land}]",
    ),
    "winding road": (
        "a winding road is built {ground}",
        "a winding road appears {ground}",
        "a [winding|curved] road [has been built|is constructed|appears] across the scene",
        "a [winding|curved] road [shows up|is constructed|has been built] {land}",
        "[a new road|a winding road] [appears|is built] {land}",
    ),
    "crossroad": (
        "a crossroad is built {ground}",
        "a crossroad appears {ground}",
        "[two crossing roads are|a crossroad is] [built|constructed] {ground}",
        "[two roads are built and cross each other|two intersecting roads appear] {land}",
        "[a new crossroad|a crossroad] [shows up|appears|has been built] {land}",
    ),
    "extension": (
        "the road {ground} is extended to the {side}",
        "[the road is extended to the {side}|the road becomes longer {ground}|there is more road {place}]",
        "the road [has been extended|is extended|extends] to the {side} [|of the scene]",
        "the [road|former road] {land} [is extended|becomes longer]",
        "[the road is completed and runs|the old road extends|the road has been extended] to the {side}",
    ),
    "trees": (
        "the trees {place} are removed",
        "[the trees {place} disappear|the woods {place} become bareland|many trees disappear {place}|"
        "trees are cut {place}]",
        "[many|some] trees {place} [are removed|have been removed|are cut down]",
        "the [trees|woods|plants] {near} [become bareland|are cleared|have been removed]",
        "[the trees|many trees|some trees] [are cut down|disappear|have been cleared] {near}",
    ),
    "house gone": (
        "the house {place} is demolished",
        "[the house {place} disappears|a house is removed {place}|one house {place} has disappeared|"
        "the old house {place} vanishes]",
        "[a|the|one] house {roof} {place} {beside} [is removed|has been removed|disappears]",
        "the [house|villa|small house] {near} [becomes bareland|is removed|has been demolished]",
        "[a house|the house|a small house] [is removed|disappears|has vanished] {near}",
    ),
    "building gone": (
        "the large building {place} is demolished",
        "[the large building {place} disappears|a building is removed {place}|"
        "the huge building {place} has vanished|{place} a large building {roof} disappears]",
        "[a|the|one] large building {place} {beside} [is removed|has been removed|disappears]",
        "the [building|large building] {near} [becomes bareland|is removed|has been demolished]",
        "[a building|the building|a big building] [is removed|disappears|has vanished] {near}",
    ),
    "houses to building": (
        "the houses {place} are replaced by a large building",
        "the houses {place} are removed and a large building appears",
        "a large building [replaces|is built to replace] the houses {place}",
        "the [small houses|houses|former houses] {near} [have been replaced|are replaced] by a [big|new] building",
        "[some|the old] houses [disappear|are demolished] and a [large|new] building is built {near}",
    ),
    "trees to parking": (
        "the trees {place} are replaced by a parking lot",
        "the trees {place} are removed and a parking lot appears",
        "a parking lot [replaces|is built to replace] the trees {place}",
        "the [trees|woods|plants] {near} [have been replaced|are replaced] by a parking lot",
        "[some|many] trees [disappear|are cut down] and a parking lot is [built|constructed] {near}",
    ),
    "building to parking": (
        "the large building {place} is replaced by a parking lot",
        "the large building {place} is removed and a parking lot appears",
        "a parking lot [replaces|is built to replace] the large building {place}",
        "the [building|former building|big building] {near} [has been replaced|is replaced] by a parking lot",
        "[a|the] building [disappears|is demolished] and a parking lot is [built|constructed] {near}",
    ),
    "road and houses": (
        "a road and several houses are built {ground} {place}",
        "[a road and several houses appear {place}|there is a new road with houses {place}|"
        "houses are built along a road {place}]",
        "a road with [several|some] houses [is built|appears] {ground}",
        "[several|some] houses are [built|constructed] along a new road {near}",
        "[a road appears and some houses are built|a road is built with houses] along it {land}",
    ),
    "trees to houses": (
        "the trees {place} are removed and two houses are built",
        "the trees {place} are removed and two houses appear",
        "two houses [replace|are built to replace] the trees {place}",
        "the [trees|woods|plants] {near} [have been replaced|are replaced] by [two|some] houses",
        "[some|many] trees [disappear|are cut down] and two houses are [built|constructed] {near}",
    ),
    "building and parking": (
        "a large building and a parking lot are built {ground} {place}",
        "[a large building and a parking lot appear {place}|"
        "there is a parking lot next to a new building {place}|a big building with a parking area shows up {place}]",
        "a [large building|building] with a parking lot [is built|appears] {ground}",
        "a [building|big building] and a parking lot [are constructed|show up] {land} {near}",
        "[a new|a large] building [is built|appears] beside a [new|large] parking lot {near}",
    ),
    "pond gone": (
        "the pond {place} disappears",
        "[the pond {place} is removed|there is no water {place}|a pond disappears {place}|"
        "the pool {place} has vanished]",
        "[a|the] [pond|lake|pool] {place} [is covered|becomes bareland|has been filled]",
        "the [pond|small lake|pool] {near} [is filled|has disappeared|becomes bareland]",
        "[the water|a pond|the small pond] {beside} [disappears|has vanished|is removed] {near}",
    ),
    "greening": (
        "the bareland {place} is covered with grass",
        "[the bareland {place} becomes grassland|grass grows {place}|a meadow appears {place}|"
        "there is more grass {place}]",
        "[grass|a meadow|vegetation] [appears|grows|has grown] on the bareland {place}",
        "the [bareland|wasteland|desert] {near} [becomes a meadow|turns green|is covered by grass]",
        "[some grass|a green meadow|new vegetation] [replaces the bareland|appears|grows] {near}",
    ),
    "planting": (
        "many trees are planted {ground} {place}",
        "[trees appear {place}|there are new trees {place}|many trees grow {place}|woods appear {place}]",
        "[trees|new trees|some trees] [have been planted|are planted|appear] {ground}",
        "[trees|plants|some woods] [show up|have been planted|appear] {land} {near}",
        "[many new trees|dense trees|a group of trees] [appear|are added|grow] [{near}|{land}|{beside}]",
    ),
    "lot extension": (
        "the parking lot {place} is extended",
        "[the parking lot {place} becomes larger|the parking area is widened {place}|"
        "there is more parking space {place}]",
        "[a|the] parking lot {place} [has been extended|is enlarged|has been expanded]",
        "the [parking lot|parking area|existing parking lot] {near} [becomes bigger|is expanded|has been extended]",
        "[the parking lot|the old parking lot|a parking lot] [extends|is enlarged|is widened] {near}",
    ),
    "playground": (
        "a playground is built {ground} {place}",
        "[a playground appears {place}|there is a playground {place}|a red track shows up {place}]",
        "a [playground|stadium|large playground] [has been built|is constructed|appears] {ground} {beside}",
        "a [playground|running track|round track] [shows up|is constructed|has been built] {land} {near}",
        "[a new playground|a playground with red tracks|one stadium] [appears|is built] [{near}|{land}]",
    ),
    "roundabout": (
        "the crossroad {ground} is replaced by a roundabout",
        "[a roundabout is built|there is a new roundabout {ground}|a roundabout appears at the crossroad]",
        "a [roundabout|circular road] [replaces|is built to replace] the crossroad",
        "the [crossroad|crossing] {land} [becomes a roundabout|is rebuilt|has been transformed into a roundabout]",
        "[a new roundabout|a circle road|a ring road] [appears|is built|is constructed] {land}",
    ),
}

# Clauses for each of two changes in one sentence: the standard phrase, then one with random synonyms.
CLAUSES: dict[str, tuple[str, str]] = {
    "house": ("a house is built {place}", "a [new house|house|villa] [appears|is constructed|shows up] {near}"),
    "building": ("a large building is built {place}", "a [building|big building] [appears|is constructed] {near}"),
    "parking": ("a parking lot is built {place}", "a [parking lot|parking area] [appears|is constructed] {near}"),
    "pond": ("a pond appears {place}", "a [pond|lake|pool] [is formed|appears|shows up] {near}"),
    "trees": ("the trees {place} are removed", "[the|many] trees [disappear|are cut down|are cleared] {near}"),
    "house gone": ("the house {place} is demolished", "[a|the] house [disappears|is removed|vanishes] {near}"),
    "building gone": (
        "the large building {place} is demolished",
        "[a|the] [building|big building] [disappears|is removed] {near}",
    ),
    "pond gone": ("the pond {place} disappears", "[a|the] pond [vanishes|is filled|is removed] {near}"),
}
